package work

import "testing"

// The same numbers on every architecture: they were first computed on amd64.
var checksums = map[Kind]uint64{
	Integer: 0x61bd8bf477f3bcd7, FloatingPoint: 0xbf4b39e97772bf98, Sorting: 0x783b48f2d, Memory: 0xe8debb479911a81a,
}

func TestTheChecksumSaysWhatWasDone(t *testing.T) {
	for _, kind := range Kinds {
		worker, err := New(kind)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			worker.Do()
		}
		if worker.Checksum() != checksums[kind] {
			t.Errorf("%s: got %#x, want %#x", kind, worker.Checksum(), checksums[kind])
		}
	}
}

func TestAnUnknownKindIsRefused(t *testing.T) {
	if _, err := New("poetry"); err == nil {
		t.Error("it was taken")
	}
}

func TestWorkIsInProportionToSeconds(t *testing.T) {
	for _, kind := range Kinds {
		one, ten := Units(kind, 1), Units(kind, 10)
		if one < 100 || ten < 10*one-5 || ten > 10*one+5 {
			t.Errorf("%s: %d units a second, %d in ten", kind, one, ten)
		}
		if Units(kind, 0) != 0 {
			t.Errorf("%s: nothing is something", kind)
		}
	}
}

func BenchmarkUnit(b *testing.B) {
	for _, kind := range Kinds {
		b.Run(string(kind), func(b *testing.B) {
			worker, err := New(kind)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				worker.Do()
			}
		})
	}
}
