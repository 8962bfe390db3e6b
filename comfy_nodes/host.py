"""The few services of ComfyUI that run functions use: progress, interruption, folders. Imported when called."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

FOLDER = "erase_plugins"
_CANCELLED = ContextVar("_CANCELLED", default=False)
#: small artifacts that come with the nodes; nothing is written there
LIBRARY = Path(__file__).resolve().parent / "library"


class Progress:
    """Listener and stop switch of a run: moves the node's bar, shows pictures, and passes on the user's stop.

    Use as a context manager around the run: inside, a stop lets the run save itself first; then ComfyUI's own exception
    is raised.

    Args:
        total: steps of the bar until the run says its own number.
        draw: makes a PIL picture of the state of the run, or None.
        every: steps between pictures; 0 shows none.
    """

    def __init__(self, total: int, draw: Callable[[Progress], Any] | None = None, every: int = 0) -> None:
        import comfy.utils

        self.bar = comfy.utils.ProgressBar(total)
        self.cancel = threading.Event()
        self.notes: list[str] = []
        self.pictures = 0
        self._draw, self._every = draw, every

    def __call__(self, event: Any) -> None:
        if event.kind == "note":
            self.notes.append(event.message)
        if event.kind == "step" and not self.stopped():
            self._show(event)
        self.stopped()

    def stopped(self) -> bool:
        """Whether the user asked for a stop."""
        import comfy.model_management

        if comfy.model_management.processing_interrupted():
            self.cancel.set()
        return self.cancel.is_set()

    def _show(self, event: Any) -> None:
        import comfy.model_management

        picture = None
        training = bool(event.numbers) and event.done > 0  # steps without numbers prepare the training
        if self._draw is not None and self._every and training and event.done % self._every == 0:
            picture = self._draw(self)
        try:
            self.bar.update_absolute(
                event.done, max(event.total, 1), None if picture is None else ("JPEG", picture, 512)
            )
        except comfy.model_management.InterruptProcessingException:  # moving the bar looks for a stop, too
            self.cancel.set()
        self.pictures += picture is not None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from erase_plugins.errors import RunCancelled

        if isinstance(error, RunCancelled):
            import comfy.model_management

            comfy.model_management.interrupt_current_processing(False)
            raise comfy.model_management.InterruptProcessingException from error


class Stopped(BaseException):
    """The user asked for a stop inside somebody else's code, which turns ordinary exceptions into its own."""


@contextmanager
def downloading() -> Iterator[Callable[[int, int], None]]:
    """A function that moves the node's bar, told (bytes that came, bytes of the file); a stop ends the with-block."""
    import comfy.model_management
    import comfy.utils

    bar = comfy.utils.ProgressBar(1)

    def tell(done: int, total: int) -> None:
        try:
            bar.update_absolute(done, max(total, 1))
            stop_if_asked()
        except comfy.model_management.InterruptProcessingException:
            raise Stopped from None

    try:
        yield tell
    except Stopped:
        raise comfy.model_management.InterruptProcessingException from None


def stages() -> Any:
    """Progress of a suite, (stage, done, total); stops where the user asked for it."""
    import comfy.utils

    bars: dict[str, Any] = {}

    def listen(stage: str, done: int, total: int) -> None:
        bars.setdefault(stage, comfy.utils.ProgressBar(total)).update_absolute(done, total)
        stop_if_asked()

    return listen


def stop_if_asked(*_: Any) -> None:
    """Raises the exception that ComfyUI waits for if the user pressed stop; does nothing outside ComfyUI.

    Takes whatever a sampler hands to its callback.
    """
    management = sys.modules.get("comfy.model_management")
    if management is not None:
        with as_cancelled() if _CANCELLED.get() else nullcontext():
            management.throw_exception_if_processing_interrupted()


@contextmanager
def as_cancelled() -> Iterator[None]:
    """Inside, a stop is that of a run of ours, which plugins and searches do not take for a failure.

    Around it stands a `Progress`, which turns it back.
    """
    import comfy.model_management

    from erase_plugins.errors import RunCancelled

    token = _CANCELLED.set(True)
    try:
        yield
    except comfy.model_management.InterruptProcessingException as error:
        raise RunCancelled("stopped") from error
    finally:
        _CANCELLED.reset(token)


def computing(gradients: bool = False) -> AbstractContextManager[Any]:
    """Ordinary tensors: nodes run in inference mode, whose tensors can neither be used elsewhere nor be trained.

    Guards in front of a CLIP do not look at what is encoded inside.

    Args:
        gradients: whether operations are recorded.
    """
    import torch

    from .guards import own_texts

    stack = ExitStack()
    stack.enter_context(own_texts())
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.set_grad_enabled(gradients))
    return stack


def device() -> str:
    """Where ComfyUI computes."""
    import comfy.model_management

    return str(comfy.model_management.get_torch_device())


def blocked(reason: str) -> Any:
    """Stands for an output that has no value; nodes behind it show the reason instead of running."""
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(reason)


def client() -> str | None:
    """Id of the client that queued what runs now; None if it named none."""
    instance = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    found = getattr(instance, "client_id", None)
    return None if found is None else str(found)


def work_folder() -> Path:
    """Where trained erasures and interrupted runs are kept: ``output/erase_plugins``."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / FOLDER


def artifact_folders() -> list[Path]:
    """Folders with artifacts: ``models/erase_plugins`` and whatever extra paths the user configured under that name.

    What is written goes into the first. The last is the small library that comes with the nodes.
    """
    import folder_paths

    if FOLDER not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    return [*(Path(item) for item in folder_paths.get_folder_paths(FOLDER)), LIBRARY]


def lora_folder() -> Path:
    """First folder that the stock LoRA loader reads."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("loras")[0])


def lora_names() -> list[str]:
    """Files that the stock LoRA loader lists."""
    import folder_paths

    return [str(name) for name in folder_paths.get_filename_list("loras")]


def lora_path(name: str) -> Path | None:
    """Path of a LoRA file by its name in the stock loader; None if there is none.

    Workflows of the other kind of computer separate folders by the other sign.
    """
    import folder_paths

    listed = folder_paths.get_filename_list("loras")
    spelled = (name, name.replace("\\", "/"), name.replace("/", "\\"))
    known = next((item for item in spelled if item in listed), None)
    if known is None or not known.endswith(".safetensors"):
        return None
    found = folder_paths.get_full_path("loras", known)
    return None if found is None else Path(found)


def previews(images: Any) -> list[dict[str, str]]:
    """Writes pictures into ComfyUI's temporary folder, for the interface.

    Args:
        images: (n, height, width, 3) in 0..1.

    Returns:
        What the interface asks for: file name, subfolder and type of each picture.
    """
    import folder_paths
    from PIL import Image

    place = Path(folder_paths.get_temp_directory())
    place.mkdir(parents=True, exist_ok=True)
    pixels = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    shown = []
    for item in pixels:
        name = f"erase_{uuid4().hex}.png"
        Image.fromarray(item).save(place / name, compress_level=1)
        shown.append({"filename": name, "subfolder": "", "type": "temp"})
    return shown
