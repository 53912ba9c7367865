"""The sending end of the weight stream: chunk by chunk to an engine's workers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from vlm_rl.model.weights import chunks
from vlm_rl.processes.background import Returned, begun
from vlm_rl.rollout.faults import EngineFault
from vlm_rl.rollout.vllm.weight_stream import WeightSource, flatten


class Control(Protocol):
    """The calls of vLLM's weight-transfer API, in process or over HTTP."""

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights_chunk(self, update_info: Mapping[str, Any]) -> None: ...

    def finish_weight_update(self) -> None: ...


class WeightSender:
    """Sends weights to one engine: the tensors themselves within one process, else their bytes.

    `host` is this node's address as the engine's workers see it, "" within one process.
    """

    def __init__(
        self,
        control: Control,
        *,
        num_workers: int,
        host: str,
        dtype: torch.dtype,
        chunk_bytes: int,
        timeout_s: float,
    ) -> None:
        """Join the workers. Raises EngineFault if they have not joined within `timeout_s`."""
        self._control = control
        self._dtype = dtype
        self._chunk_bytes = chunk_bytes
        self._source: WeightSource | None = None
        if not host:
            control.init_weight_transfer_engine({})
            return
        self._source = source = _listening(host)
        place = {"host": host, "port": source.port, "secret": source.secret}
        try:
            _meanwhile(
                lambda: source.admit(num_workers, timeout_s),
                lambda: control.init_weight_transfer_engine(place | {"timeout_s": timeout_s}),
            )
        except BaseException:
            source.close()  # else it would listen until its time is over
            raise

    def send(
        self,
        weights: Iterable[tuple[str, Tensor]],
        *,
        one_by_one: bool = False,
        partial: bool = False,
    ) -> None:
        """Replace the engine's weights by `weights`, matrices in its precision, chunk by chunk.

        `one_by_one` asks the engine about every name by itself. Raises EngineFault if the engine is
        gone, EngineMismatch for a name that it lacks, or has and did not get (unless `partial`).
        """
        self._control.start_weight_update()
        # vLLM keeps some vectors in float32, such as the rates of a recurrence, and casts the rest
        cast = ((n, weight.to(self._dtype) if weight.ndim > 1 else weight) for n, weight in weights)
        for chunk in chunks(cast, self._chunk_bytes):
            names, tensors = [name for name, _ in chunk], [tensor for _, tensor in chunk]
            update = {"names": names, "one_by_one": one_by_one, "partial": partial}
            if self._source is None:
                self._control.update_weights_chunk(update | {"tensors": tensors})
            else:
                self._send_bytes(self._source, update, tensors)
        self._control.finish_weight_update()

    def _send_bytes(
        self, source: WeightSource, update: dict[str, Any], tensors: list[Tensor]
    ) -> None:
        update["dtypes"] = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors]
        update["shapes"] = [list(tensor.shape) for tensor in tensors]
        buffer = flatten(tensors)
        _meanwhile(lambda: source.send(buffer), lambda: self._control.update_weights_chunk(update))


def _listening(host: str) -> WeightSource:
    try:
        return WeightSource(host)
    except OSError as error:
        raise EngineFault(f"the weight stream cannot listen on {host}: {error}") from error


def _meanwhile(here: Callable[[], Returned], there: Callable[[], None]) -> Returned:
    """Do `here` in a thread while `there` asks the engine for the other half of it.

    If `there` fails, its error is raised at once, and `here` is left to its own time limit.
    """
    result = begun(here)
    there()
    try:
        return result.result()
    except OSError as error:
        raise EngineFault(f"the weight stream broke: {error}") from error
