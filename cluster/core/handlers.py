"""Which handler decides on which event. Importing this module makes a `Board` complete."""

from __future__ import annotations

from cluster.core import admission, control, events, leases, restore, settlement, workers
from cluster.core.board import HANDLERS, Board, Settings

__all__ = ["Board", "Settings", "restore"]

HANDLERS.update(
    {
        events.Submit: admission.on_submit,
        events.AdmissionsDurable: admission.on_admissions_durable,
        events.AdmissionsFailed: admission.on_admissions_failed,
        events.StoreFailed: admission.on_store_failed,
        events.StoreHealed: admission.on_store_healed,
        events.Poll: leases.on_poll,
        events.LeaseDurable: leases.on_lease_durable,
        events.GiveBack: leases.on_give_back,
        events.Stopped: leases.on_stopped,
        events.Reported: settlement.on_reported,
        events.InputsMissing: settlement.on_inputs_missing,
        events.OutcomesDurable: restore.on_outcomes_durable,
        events.Cancel: control.on_cancel,
        events.Requeue: control.on_requeue,
        events.PauseQueue: control.on_pause_queue,
        events.Register: workers.on_register,
        events.Heartbeat: workers.on_heartbeat,
        events.Begun: workers.on_begun,
        events.Leave: workers.on_leave,
        events.Drain: workers.on_drain,
        events.Tick: workers.on_tick,
    }
)
