package report

import "runtime"

// CPUSeconds is unknown to a WebAssembly module; the program that runs it says it in its place.
func CPUSeconds() float64 { return 0 }

// ResidentMiB returns what the module has taken; the program that runs it says what it takes itself.
func ResidentMiB() (now, peak float64) {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	taken := float64(stats.Sys) / (1 << 20)
	return taken, taken
}
