"""Loading says nothing where nothing is wrong, and leaves everybody's logging as it was."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from erase_plugins.families.notices import filtered, without_notices

#: optional packages of the test environment that print lines of their own when diffusers looks for them; a plain
#: installation does not have them, and without torchvision transformers speaks up
QUANTIZERS = ("torchao", "bitsandbytes", "optimum", "kernels")
ABSENT = ("torchvision", *QUANTIZERS)
LOGGER = "transformers.utils.import_utils"
NOTICE = "`CLIPImageProcessor` requires torchvision (not installed); falling back to `CLIPImageProcessorPil` for"


def stderr_of(code: str, absent: tuple[str, ...] = ABSENT) -> str:
    hidden = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + code], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import erase_plugins as ep; assert ep.load('pocket').unet is not None",
        "import erase_plugins as ep; assert ep.plan('pocket', ['pizza'], 'uce').modules",
    ],
    ids=["load", "plan"],
)
def test_pocket_opens_without_a_word(code):
    assert stderr_of("import warnings; warnings.simplefilter('default')\n" + code) == ""


@pytest.mark.parametrize(
    "code",
    [
        "import erase_plugins as ep; assert ep.load('pocket').unet is not None",
        "import erase_plugins as ep; assert ep.plan('pocket-classifier', ['owl'], 'gs-lora', kind='class').modules",
        "import erase_plugins as ep; assert ep.plan('pocket', ['pizza'], 'uce').modules",
    ],
    ids=["load", "plan of a classifier", "plan of pictures"],
)
def test_quantizers_that_are_installed_say_nothing_either(code):
    pytest.importorskip("torchao", reason="torchao comes with the extra test")
    assert stderr_of(code, ("torchvision",)) == ""


def test_the_notice_comes_without_us():
    """Else the test above could not fail."""
    assert "torchvision" in stderr_of("from diffusers import StableDiffusionPipeline")


class Listener(logging.Handler):
    """Hears its logger only, whether or not records travel on to the root."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def emit(self, record):
        self.heard.append(record.getMessage())


def test_only_the_notice_is_kept_back_and_only_meanwhile():
    import transformers  # noqa: F401  (it sets up its loggers)

    listener = Listener()
    log = logging.getLogger(LOGGER)
    found = log.level
    log.setLevel(logging.WARNING)  # commands that other tests ran in this process have made transformers quiet
    before = (log.level, list(log.filters), log.disabled)
    log.addHandler(listener)
    try:
        with pytest.raises(RuntimeError), without_notices():
            log.warning(NOTICE)
            log.warning("weights are missing")
            raise RuntimeError
        log.warning(NOTICE)
        assert (log.level, list(log.filters), log.disabled) == before
    finally:
        log.removeHandler(listener)
        log.setLevel(found)
    assert listener.heard == ["weights are missing", NOTICE]


def test_blocks_inside_each_other_take_off_only_their_own_filter(caplog):
    first, second = [], []
    logger = logging.getLogger("some.client")
    with filtered({"some.client": lambda record: first.append(record) or True}):
        with filtered({"some.client": lambda record: second.append(record)}):
            logger.warning("one")
        logger.warning("two")
    logger.warning("three")
    assert ([item.getMessage() for item in first], len(second)) == (["one", "two"], 1)
    assert [item.getMessage() for item in caplog.records] == ["two", "three"]
