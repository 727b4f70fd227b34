package work

// unitsPerReferenceSecond is what one second of one core of the reference CPU does, natively: measured once by
// `worker calibrate` (the most of 40 rounds of each kind, so that what else ran on the machine does not count; of memory the
// median, since one round in ten found its 16 MiB in a cache that was left alone), and then fixed. It defines the unit
// of work; measuring it again elsewhere tells how fast that machine is, and changes nothing here.
//
// The reference CPU is a virtual core of an AMD EPYC of family 26, model 2 (Zen 5), 48 KiB L1d, 1 MiB L2, with Go 1.26.
var unitsPerReferenceSecond = map[Kind]float64{
	Integer:       1100,
	FloatingPoint: 1180,
	Sorting:       1040,
	Memory:        1150,
}
