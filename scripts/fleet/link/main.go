// Link is the network between the clusters of the local fleet, in user space.
//
//	link CONFIG.json
//
// It reads IP packets from one TUN device in each cluster's network namespace and writes each to the device of the cluster
// that it is for, after the one-way delay of that path, with the path's jitter and loss. It also carries connections from
// ports of this machine's loopback into the namespaces. It makes nothing that outlives it: namespaces and devices are there
// already. It writes the file "ready" when it serves, and reads the paths again on SIGHUP.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

// Config says what is where. Durations are in microseconds, one way.
type Config struct {
	Ready    string
	Clusters []Cluster
	Paths    []Path
	Forwards []Forward
}

// Cluster is a network namespace with a TUN device, and the networks that are behind it.
type Cluster struct {
	Name     string
	Netns    string
	Device   string
	Networks []string
}

// Path is what packets meet on their way from one cluster to another.
type Path struct {
	From, To  string
	DelayUs   int64
	JitterUs  float64
	LossRatio float64
}

// Forward carries connections to Listen, an address of this machine, to an address within a namespace.
type Forward struct {
	Listen string
	Netns  string
	To     string
}

func readConfig(file string) (Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Config{}, err
	}
	var config Config
	if err := json.Unmarshal(text, &config); err != nil {
		return Config{}, fmt.Errorf("%s: %w", file, err)
	}
	return config, nil
}

func run(file string) error {
	config, err := readConfig(file)
	if err != nil {
		return err
	}
	table, err := newTable(config)
	if err != nil {
		return err
	}
	router, err := newRouter(config.Clusters, table, time.Now().UnixNano())
	if err != nil {
		return err
	}
	for _, forward := range config.Forwards {
		if err := serve(forward); err != nil {
			return err
		}
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	go func() {
		for range again {
			if err := reload(file, router); err != nil {
				log.Print("the paths stay as they are: ", err)
			}
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- router.run() }()
	if err := os.WriteFile(config.Ready, nil, 0o600); err != nil {
		return err
	}
	return <-ended
}

func reload(file string, router *router) error {
	config, err := readConfig(file)
	if err != nil {
		return err
	}
	table, err := newTable(config)
	if err != nil {
		return err
	}
	if len(table.names) != len(router.devices) {
		return errors.New("the clusters are others now")
	}
	router.table.Store(table)
	return nil
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("link: ")
	debug.SetGCPercent(400) // packets are reused; a pause costs accuracy, memory here costs little
	if len(os.Args) != 2 {
		log.Fatal("want one argument, the configuration")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}
