package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
)

// table says where a packet goes and what it meets on its way; it is never changed.
type table struct {
	names    map[string]int
	networks []network
	paths    [][]path // from, to
}

type network struct {
	prefix  netip.Prefix
	cluster int
}

type path struct {
	known     bool
	delayNs   int64
	jitterNs  float64
	lossRatio float64
}

func newTable(config Config) (*table, error) {
	made := &table{names: map[string]int{}}
	for number, cluster := range config.Clusters {
		made.names[cluster.Name] = number
		made.paths = append(made.paths, make([]path, len(config.Clusters)))
		for _, text := range cluster.Networks {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("cluster %s: %w", cluster.Name, err)
			}
			made.networks = append(made.networks, network{prefix, number})
		}
	}
	for _, each := range config.Paths {
		from, isFrom := made.names[each.From]
		to, isTo := made.names[each.To]
		if !isFrom || !isTo {
			return nil, fmt.Errorf("path from %s to %s: want names of clusters", each.From, each.To)
		}
		if each.DelayUs < 0 || each.JitterUs < 0 || each.LossRatio < 0 || each.LossRatio > 1 {
			return nil, fmt.Errorf("path from %s to %s: want delays >= 0 and a loss from 0 to 1", each.From, each.To)
		}
		made.paths[from][to] = path{true, each.DelayUs * 1000, each.JitterUs * 1000, each.LossRatio}
	}
	return made, nil
}

// destination returns the cluster that an IPv4 packet is for.
func (t *table) destination(packet []byte) (int, bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return 0, false
	}
	var address [4]byte
	binary.BigEndian.PutUint32(address[:], binary.BigEndian.Uint32(packet[16:20]))
	to := netip.AddrFrom4(address)
	for _, each := range t.networks {
		if each.prefix.Contains(to) {
			return each.cluster, true
		}
	}
	return 0, false
}

// delay draws how long a packet takes, in ns; false when it is lost.
func (p path) delay(random *rand.Rand) (int64, bool) {
	if !p.known || (p.lossRatio > 0 && random.Float64() < p.lossRatio) {
		return 0, false
	}
	if p.jitterNs == 0 {
		return p.delayNs, true
	}
	return max(0, p.delayNs+int64(random.NormFloat64()*p.jitterNs)), true
}
