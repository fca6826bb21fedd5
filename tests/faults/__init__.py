"""The sixteen faults that delivery must survive, in real processes; where each of them is injected.

Some are here, in groups by what goes wrong; others stand beside what they are about. The long ones are reduced, in
rounds and seconds, unless the environment has FRAMEWORM_FAULTS=full: `make faults` runs them in full.

In the table `bus` is `tests/bus`, `delivery` is `tests/frameworm/delivery`; what is neither is here.

| fault | injected by |
|---|---|
| 1 a listener raises on event 5 of 10 | `bus/test_worker.py` (failure of one event), `test_commands.py` |
| 2 a listener always raises | `bus/test_policy.py` and `bus/test_worker.py` (breaker), `test_commands.py` |
| 3 a plain function hangs for ever | `bus/test_worker.py`, `bus/test_lane.py` (the process ends), `test_commands.py` |
| 4 a coroutine calls `time.sleep` | `bus/test_watchdog.py` (coroutine that blocks the loop) |
| 5 a flood of 1 000 000 events | `bus/test_mailbox.py` (flood, for each overflow policy) |
| 6 100 ms per event beside 5 ms steps | `bus/test_worker.py` (slow listener); the ratio is in `benchmarks` |
| 7 a listener burns the processor | `test_listeners.py` |
| 8 SIGTERM with a full queue, and a second one | `test_processes.py`, `bus/test_lane.py` (signals) |
| 9 SIGKILL of the trainer | `test_kills.py`, `test_commands.py` (in MLflow), `bus/test_log.py` (survives a kill) |
| 10 SIGKILL of the relay | `test_kills.py`, `delivery/test_supervisor.py` (started again) |
| 11 the tracking server is down | `test_server.py` (the real one), `delivery/test_supervisor.py` (a stub) |
| 12 a full disk | `test_processes.py` (journal and relay), `bus/test_log.py` (file size limit) |
| 13 forked workers, a lock held at the fork | `test_processes.py`, `bus/test_lane.py` and `bus/test_log.py` (forks) |
| 14 nested, recursive, self-unsubscribing | `bus/test_channel.py`, `bus/test_turn.py`, `bus/test_worker.py` |
| 15 two writers, damage, poison, killing records | `test_damage.py`, `test_commands.py`, `delivery/test_relay.py` |
| 16 the balance as a property | `bus/test_balance.py` |

Training has two of its own: `test_phases.py` sends signals in each phase of a run, `test_cuts.py` kills one 200 times.
"""
