package report

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// CPUSeconds returns what this process has used, user and system.
func CPUSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// ResidentMiB returns the resident set of this process, now and at most.
func ResidentMiB() (now, peak float64) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	return field(string(text), "VmRSS:"), field(string(text), "VmHWM:")
}

func field(text, name string) float64 {
	_, rest, _ := strings.Cut(text, name)
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0
	}
	return kib / 1024
}
