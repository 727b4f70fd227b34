package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	largestPacket = 65536
	mostOnTheWay  = 100_000 // packets; beyond that the newest are dropped, as a full router does
	mostAtOnce    = 64      // packets taken from one device before the others have their turn
	ownDelayNs    = 50_000  // what two kernels and this program add to each packet, measured with a delay of nothing
)

// router is one thread that waits for packets and for the moment when the next one is due. Go's own timers are exact to a
// millisecond on an idle machine, which is a half of the shortest paths: it waits on a timer of the kernel instead.
type router struct {
	devices []int
	table   atomic.Pointer[table]
	epoll   int
	timer   int
	random  *rand.Rand
	waiting queue
	lastNs  [][]int64 // from, to: when the last packet arrives, which none that was sent later overtakes
	sent    uint64
	spare   [][]byte
	scratch [largestPacket]byte
}

func newRouter(clusters []Cluster, paths *table, seed int64) (*router, error) {
	made := &router{random: rand.New(rand.NewPCG(uint64(seed), 0))}
	made.table.Store(paths)
	for _, cluster := range clusters {
		device, err := openTun(cluster.Netns, cluster.Device)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", cluster.Name, err)
		}
		made.devices = append(made.devices, device)
		made.lastNs = append(made.lastNs, make([]int64, len(clusters)))
	}
	return made, made.watch()
}

func (r *router) watch() (err error) {
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if r.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return err
	}
	for number, fd := range append([]int{r.timer}, r.devices...) {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(number - 1)} // -1 is the timer
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return err
		}
	}
	return nil
}

func (r *router) run() error {
	runtime.LockOSThread()
	hurry()
	events := make([]unix.EpollEvent, len(r.devices)+1)
	for {
		count, err := unix.EpollWait(r.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for packets: %w", err)
		}
		for _, event := range events[:max(count, 0)] {
			if event.Fd < 0 {
				var expirations [8]byte
				unix.Read(r.timer, expirations[:]) // it is read to be quiet until it is set again
			} else if err := r.take(int(event.Fd)); err != nil {
				return err
			}
		}
		if err := r.deliver(); err != nil {
			return err
		}
	}
}

// take reads what a cluster has sent and says when each packet arrives.
func (r *router) take(from int) error {
	paths := r.table.Load()
	for range mostAtOnce {
		size, err := unix.Read(r.devices[from], r.scratch[:])
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading from device %d: %w", from, err)
		}
		to, isKnown := paths.destination(r.scratch[:size])
		if !isKnown || len(r.waiting) >= mostOnTheWay {
			continue
		}
		delayNs, arrives := paths.paths[from][to].delay(r.random)
		if !arrives {
			continue
		}
		dueNs := max(now()+delayNs-ownDelayNs, r.lastNs[from][to])
		r.lastNs[from][to] = dueNs
		r.sent++
		r.waiting.push(parcel{dueNs, r.sent, to, append(r.buffer(), r.scratch[:size]...)})
	}
	return nil
}

// deliver writes what is due and sets the timer to what is due next.
func (r *router) deliver() error {
	for len(r.waiting) > 0 && r.waiting[0].dueNs <= now() {
		one := r.waiting.pop()
		_, err := unix.Write(r.devices[one.to], one.packet)
		// A device that is full or down loses the packet, as a real one would.
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("writing to device %d: %w", one.to, err)
		}
		r.spare = append(r.spare, one.packet[:0])
	}
	var at unix.ItimerSpec // zero: never
	if len(r.waiting) > 0 {
		at.Value = unix.NsecToTimespec(r.waiting[0].dueNs)
	}
	return unix.TimerfdSettime(r.timer, unix.TFD_TIMER_ABSTIME, &at, nil)
}

func (r *router) buffer() []byte {
	if len(r.spare) == 0 {
		return make([]byte, 0, 2048)
	}
	last := len(r.spare) - 1
	buffer := r.spare[last]
	r.spare = r.spare[:last]
	return buffer
}

func now() int64 {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &at); err != nil {
		panic(err) // there is no such machine
	}
	return at.Nano()
}

// hurry asks to run as soon as there is something to do: what a busy machine makes us wait is added to every round trip.
// A refusal costs accuracy only.
func hurry() {
	attributes := unix.SchedAttr{Size: uint32(unsafe.Sizeof(unix.SchedAttr{})), Policy: unix.SCHED_FIFO, Priority: 1}
	if unix.SchedSetAttr(0, &attributes, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
	}
}
