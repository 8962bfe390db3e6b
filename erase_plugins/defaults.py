"""The built-in plugins. A new built-in is one file and one line here; nothing else names it."""

from __future__ import annotations

BUILTIN_PLUGINS: tuple[str, ...] = (
    "erase_plugins.families.sd1",
    "erase_plugins.families.sdxl",
    "erase_plugins.artifacts.layouts.patch",
    "erase_plugins.artifacts.layouts.context",
    "erase_plugins.artifacts.layouts.diffusers",
    "erase_plugins.artifacts.layouts.kohya",
    "erase_plugins.artifacts.layouts.diff",
    "erase_plugins.artifacts.layouts.peft",
    "erase_plugins.methods.uce",
    "erase_plugins.methods.rece",
    "erase_plugins.methods.esd",
    "erase_plugins.methods.realera",
    "erase_plugins.methods.trce",
    "erase_plugins.methods.ace",
    "erase_plugins.methods.receler",
    "erase_plugins.methods.few_shot",
    "erase_plugins.methods.advunlearn",
    "erase_plugins.methods.mace",
    "erase_plugins.methods.spm",
    "erase_plugins.methods.leco",
    "erase_plugins.methods.concept_ablation",
    "erase_plugins.pocket.judge",
    "erase_plugins.evaluation.clip_judge",
    "erase_plugins.evaluation.quick",
    "erase_plugins.evaluation.erase_eval.suite",
    "erase_plugins.evaluation.weights",
    "erase_plugins.workflow.attack_suite",
    "erase_plugins.records.release",
)
