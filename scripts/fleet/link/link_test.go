package main

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func twoClusters(path Path) Config {
	return Config{
		Clusters: []Cluster{
			{Name: "a", Networks: []string{"10.77.1.0/24", "10.88.1.0/24"}},
			{Name: "b", Networks: []string{"10.77.2.0/24"}},
		},
		Paths: []Path{path},
	}
}

func packetTo(a, b, c, d byte) []byte {
	packet := make([]byte, 20)
	packet[0] = 0x45
	copy(packet[16:], []byte{a, b, c, d})
	return packet
}

func TestAPacketGoesToTheClusterOfItsNetwork(t *testing.T) {
	table, err := newTable(twoClusters(Path{From: "a", To: "b"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		packet []byte
		to     int
		known  bool
	}{
		{packetTo(10, 77, 1, 9), 0, true},
		{packetTo(10, 88, 1, 200), 0, true},
		{packetTo(10, 77, 2, 1), 1, true},
		{packetTo(10, 77, 3, 1), 0, false},
		{packetTo(10, 77, 2, 1)[:19], 0, false},
		{append([]byte{0x60}, make([]byte, 39)...), 0, false},
	} {
		if to, known := table.destination(one.packet); to != one.to || known != one.known {
			t.Errorf("packet %v: got %d, %v", one.packet, to, known)
		}
	}
}

func TestAConfigurationThatMakesNoSenseIsRefused(t *testing.T) {
	for _, bad := range []Path{{From: "a", To: "c"}, {From: "a", To: "b", DelayUs: -1}, {From: "a", To: "b", LossRatio: 1.5}} {
		if _, err := newTable(twoClusters(bad)); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestLossAndJitterAreAsThePathSays(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 0))
	const draws = 100_000
	lost, sum := 0, 0.0
	one := path{known: true, delayNs: 10_000_000, jitterNs: 1_000_000, lossRatio: 0.1}
	for range draws {
		delayNs, arrives := one.delay(random)
		if !arrives {
			lost++
		} else {
			sum += float64(delayNs)
		}
	}
	if lost < draws*9/100 || lost > draws*11/100 {
		t.Errorf("lost %d of %d, want a tenth", lost, draws)
	}
	if mean := sum / float64(draws-lost); mean < 9.98e6 || mean > 10.02e6 {
		t.Errorf("mean delay %.0f ns, want 10 ms", mean)
	}
	if _, arrives := (path{}).delay(random); arrives {
		t.Error("a packet arrived where there is no path")
	}
}

func TestParcelsLeaveInTheOrderTheyAreDue(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 0))
	var waiting queue
	var want []int64
	for number := range 1000 {
		due := random.Int64N(100) // many at once
		want = append(want, due*1000+int64(number))
		waiting.push(parcel{dueNs: due, number: uint64(number)})
	}
	slices.Sort(want)
	for _, each := range want {
		if got := waiting.pop(); got.dueNs*1000+int64(got.number) != each {
			t.Fatalf("got %+v, want %d", got, each)
		}
	}
}
