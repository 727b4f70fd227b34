package main

// parcel is a packet on its way: to which cluster, and when it arrives (ns of the monotonic clock).
type parcel struct {
	dueNs  int64
	number uint64 // of two that are due at once, the one that was sent first
	to     int
	packet []byte
}

// queue is a binary heap of parcels; push and pop take time logarithmic in its length.
type queue []parcel

func (q queue) before(a, b int) bool {
	if q[a].dueNs != q[b].dueNs {
		return q[a].dueNs < q[b].dueNs
	}
	return q[a].number < q[b].number
}

func (q *queue) push(one parcel) {
	*q = append(*q, one)
	heap := *q
	for child := len(heap) - 1; child > 0; {
		parent := (child - 1) / 2
		if !heap.before(child, parent) {
			break
		}
		heap[child], heap[parent] = heap[parent], heap[child]
		child = parent
	}
}

func (q *queue) pop() parcel {
	heap := *q
	first, last := heap[0], len(heap)-1
	heap[0], heap[last] = heap[last], parcel{}
	heap = heap[:last]
	*q = heap
	for parent := 0; ; {
		child := 2*parent + 1
		if child >= last {
			break
		}
		if child+1 < last && heap.before(child+1, child) {
			child++
		}
		if !heap.before(child, parent) {
			break
		}
		heap[child], heap[parent] = heap[parent], heap[child]
		parent = child
	}
	return first
}
