// Package work is what a worker does: amounts of CPU work, the same on every machine.
//
// Work comes in units. How many units a second of the reference CPU does is a constant (reference.go), so "10 seconds of the
// reference CPU" is an amount of work, never a time: a machine half as fast takes 20 seconds for it. The checksum depends
// on the kind and the number of units alone; it is the same on every architecture, and shows that the work was done.
//
// What a unit costs must not hang on what other programs leave in the caches that all share: a pod with a twentieth of a core
// works 5 ms and then waits 95, in which they fill them. So three kinds of work fit into the first cache, which is full again in
// a moment, and the fourth reads here and there in so much memory that little of it is ever in a cache that others use too. Nor
// must it hang on who computes on the other thread of a core: whoever keeps all of a core busy gets half of it then, and whoever
// waits for each result before the next step nearly all. So steps wait for each other.
package work

import (
	"fmt"
	"math"
	"slices"
)

// Kind is a kind of work: machines that do one fast need not do another one fast, emulators least of all.
type Kind string

// The kinds of work.
const (
	Integer       Kind = "integer"        // shifts and exclusive ors in registers
	FloatingPoint Kind = "floating_point" // products and differences, 64 bit, in steps that wait for the one before
	Sorting       Kind = "sorting"        // comparisons and branches that nothing can foresee
	Memory        Kind = "memory"         // reads that each wait for the one before, over 16 MiB
)

// Kinds lists all kinds.
var Kinds = []Kind{Integer, FloatingPoint, Sorting, Memory}

// Worker does units of one kind of work.
type Worker struct {
	unit     func()
	checksum uint64
	random   uint64
}

// New prepares a worker; what it needs of memory is allocated here.
func New(kind Kind) (*Worker, error) {
	made := &Worker{random: 88172645463325252}
	switch kind {
	case Integer:
		made.unit = made.integer
	case FloatingPoint:
		made.unit = made.floatingPoint()
	case Sorting:
		made.unit = made.sorting()
	case Memory:
		made.unit = made.memory()
	default:
		return nil, fmt.Errorf("kind %q: want one of %v", kind, Kinds)
	}
	return made, nil
}

// Do does one unit of work, between half a millisecond and one of the reference CPU.
func (w *Worker) Do() { w.unit() }

// Checksum tells what has been done so far.
func (w *Worker) Checksum() uint64 { return w.checksum }

// Units returns how many units of work a number of seconds of the reference CPU is.
func Units(kind Kind, cpuSeconds float64) uint64 {
	return uint64(math.Round(cpuSeconds * unitsPerReferenceSecond[kind]))
}

// next is Marsaglia's xorshift64 (Journal of Statistical Software 8, 14, 2003).
func (w *Worker) next() uint64 {
	w.random ^= w.random << 13
	w.random ^= w.random >> 7
	w.random ^= w.random << 17
	return w.random
}

func (w *Worker) integer() {
	state := w.random // in a register
	for range 600_000 {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
	}
	w.random = state
	w.checksum += state
}

func (w *Worker) floatingPoint() func() {
	// The logistic map: it neither leaves (0, 1) nor settles.
	x := 0.3
	return func() {
		for range 220_000 {
			// The conversions forbid to fuse product and difference, which some architectures do: one checksum for all.
			x = float64(float64(3.99*x) * float64(1-x))
		}
		w.checksum += math.Float64bits(x)
	}
}

func (w *Worker) sorting() func() {
	numbers := make([]uint32, 1<<12) // 16 KiB
	return func() {
		for range 5 {
			for place := range numbers {
				numbers[place] = uint32(w.next())
			}
			slices.Sort(numbers)
			w.checksum += uint64(numbers[len(numbers)/2])
		}
	}
}

func (w *Worker) memory() func() {
	values := make([]uint32, 1<<22) // 16 MiB
	for place := range values {
		values[place] = uint32(place)
	}
	at := w.random
	return func() {
		for range 8_000 {
			// The constants of MMIX (Knuth, The Art of Computer Programming 2, 3.3.4); where to read next hangs on what was read.
			at = at*6364136223846793005 + 1442695040888963407 + uint64(values[at>>42])
		}
		w.checksum += at
	}
}
