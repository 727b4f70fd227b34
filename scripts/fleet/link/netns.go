package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// within calls a function on a thread that is in another network namespace. What the function opens stays there; the thread
// is not used again.
func within[T any](netns string, do func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		file, err := os.Open(netns)
		if err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		if err != nil {
			answers <- answer{err: fmt.Errorf("entering %s: %w", netns, err)}
			return
		}
		value, err := do()
		answers <- answer{value, err}
	}()
	got := <-answers
	return got.value, got.err
}

// openTun opens a TUN device that is there already, without blocking.
func openTun(netns, device string) (int, error) {
	return within(netns, func() (int, error) {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, fmt.Errorf("/dev/net/tun: %w", err)
		}
		request, err := unix.NewIfreq(device)
		if err != nil {
			return 0, fmt.Errorf("device %s: %w", device, err)
		}
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return 0, fmt.Errorf("device %s in %s: %w", device, netns, err)
		}
		return fd, nil
	})
}

// serve carries connections to a port of this machine into a namespace, until the program ends.
func serve(forward Forward) error {
	listener, err := net.Listen("tcp", forward.Listen)
	if err != nil {
		return err
	}
	go func() {
		for {
			outer, err := listener.Accept()
			if err != nil {
				log.Fatal("accepting at ", forward.Listen, ": ", err)
			}
			go carry(outer, forward)
		}
	}()
	return nil
}

func carry(outer net.Conn, forward Forward) {
	defer outer.Close()
	inner, err := within(forward.Netns, func() (net.Conn, error) { return net.Dial("tcp", forward.To) })
	if err != nil {
		return // whoever called sees a connection that ends at once, as with any server that is down
	}
	defer inner.Close()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{outer, inner}, {inner, outer}} {
		go func() {
			io.Copy(pair[0], pair[1])
			pair[0].(*net.TCPConn).CloseWrite()
			done <- struct{}{}
		}()
	}
	<-done
	<-done
}
