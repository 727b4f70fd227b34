// Package report is what a worker says about itself when it ends.
package report

import (
	"encoding/json"
	"os"
)

// Report is printed to the standard output and left in the container's termination message, as one line of JSON.
type Report struct {
	Kind string `json:"kind"`
	Arch string `json:"arch"` // amd64, arm64, riscv64, wasm: what the work was compiled for
	// ReferenceCPUSeconds is how much work was asked for, in seconds of the reference CPU, after scaling.
	ReferenceCPUSeconds float64 `json:"reference_cpu_seconds"`
	StartedMs           int64   `json:"started_ms"` // since the epoch
	FinishedMs          int64   `json:"finished_ms"`
	CPUSeconds          float64 `json:"cpu_seconds"`     // user and system, as the operating system counts them
	MemoryPeakMiB       float64 `json:"memory_peak_mib"` // largest resident set
	Checksum            string  `json:"checksum"`        // hexadecimal; the same on every architecture
	DoneRatio           float64 `json:"done_ratio"`      // less than 1 when it was asked to stop
}

// TerminationLog is where the kubelet finds the termination message.
const TerminationLog = "/dev/termination-log"

// Deliver prints a report and leaves it as the termination message, where there is a place for one.
func (r Report) Deliver() error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if _, err := os.Stdout.Write(line); err != nil {
		return err
	}
	if _, err := os.Stat(TerminationLog); err != nil {
		return nil // not in a container
	}
	return os.WriteFile(TerminationLog, line, 0o644)
}
