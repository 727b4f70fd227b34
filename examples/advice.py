"""Ask a language model for changes, here one whose answers are recorded, and hold what it expected against a simulation.

With a real one it would be `LLM(LlmSettings(model=...), api_key=..., base_url=...)`; whatever goes wrong with it, rules decide.
"""

from __future__ import annotations

from pathlib import Path

from opendt import Cluster, HostGroup, LinearPower, Simulation, Topology, workload_from_tasks
from opendt.model.slo import Slo
from opendt.optimization.base import Context
from opendt.optimization.llm import LLM, LlmSettings, RecordedReplies
from opendt.twin.metrics import Totals, window_metrics

power = LinearPower(idle_w=100.0, max_w=350.0)
node = HostGroup(name="node", count=6, core_count=16, core_speed_mhz=2400.0, memory_mib=131_072, power_model=power)
simulation = Simulation(Topology(clusters=(Cluster(name="dc", hosts=(node,)),)), sample_interval_ms=30_000)
simulation.submit(workload_from_tasks([{"id": 1, "cpu_count": 8, "fragments": [(7_200_000, 19_200.0)]}]))
start = Totals.of(simulation)
simulation.advance(300_000)
metrics = window_metrics(
    simulation.take_series(),
    simulation.take_results(),
    start=start,
    end=Totals.of(simulation),
    tasks=simulation.tasks(),
)
slo = Slo.model_validate({"version": 1, "energy": {"target_kwh": 0.04}})

replies = RecordedReplies.read(Path(__file__).with_name("recorded_llm.json"))
llm = LLM(LlmSettings(model="recorded"), service=replies)
proposal = llm.propose(Context.of(simulation, slo, metrics))
assert proposal is not None
print(f"{proposal.source}: {proposal.reason}")
for change in proposal.changes:
    print(change.model_dump_json(include={"type", "count"}))
(entry,) = [entry for entry in llm.history.entries if entry.proposal.id == proposal.id]
assert proposal.expected is not None
assert entry.simulated is not None
print(f"energy: expected {proposal.expected.energy_ratio:+.0%}, simulated {entry.simulated.energy_ratio:+.0%}")
