"""Loading says nothing where nothing is wrong, and leaves everybody's logging as it was."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from erase_plugins.families.notices import without_notices

#: optional packages of the test environment that print lines of their own when diffusers looks for them; a plain
#: installation does not have them, and without torchvision transformers speaks up
ABSENT = ("torchvision", "torchao", "bitsandbytes", "optimum", "kernels")
LOGGER = "transformers.utils.import_utils"
NOTICE = "`CLIPImageProcessor` requires torchvision (not installed); falling back to `CLIPImageProcessorPil` for"


def stderr_of(code: str) -> str:
    hidden = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"
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


def test_the_notice_comes_without_us():
    """Else the test above could not fail."""
    assert "torchvision" in stderr_of("from diffusers import StableDiffusionPipeline")


def test_only_the_notice_is_kept_back_and_only_meanwhile(caplog):
    import transformers  # noqa: F401  (from now on its records do not reach the root, where caplog listens)

    log = logging.getLogger(LOGGER)
    before = (log.level, list(log.filters), log.disabled)
    log.addHandler(caplog.handler)
    try:
        with pytest.raises(RuntimeError), without_notices():
            log.warning(NOTICE)
            log.warning("weights are missing")
            raise RuntimeError
        log.warning(NOTICE)
    finally:
        log.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == ["weights are missing", NOTICE]
    assert (log.level, list(log.filters), log.disabled) == before
