"""What if all hosts ran at half their frequency? Simulate, fork, change, compare."""

from opendt import Cluster, HostGroup, LinearPower, Simulation, ThrottleHosts, Topology, workload_from_tasks

power = LinearPower(idle_w=100.0, max_w=350.0)
node = HostGroup(name="node", count=4, core_count=16, core_speed_mhz=2400.0, memory_mib=131_072, power_model=power)
simulation = Simulation(Topology(clusters=(Cluster(name="dc", hosts=(node,)),)))
simulation.submit(
    workload_from_tasks({"id": i, "cpu_count": 8, "fragments": [(3_600_000, 19_200.0)]} for i in range(8))
)
simulation.advance(1_800_000)
slower = simulation.fork()
slower.apply(ThrottleHosts(speed_ratio=0.5))
for name, future in {"as it is": simulation, "at half speed": slower}.items():
    future.run()
    print(f"{name}: done after {future.now_ms / 60_000:.0f} min, {future.energy_j / 3_600_000:.2f} kWh")
