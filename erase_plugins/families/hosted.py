"""A model whose networks are torch modules of a host: weights, modules and fingerprint of any such model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.fingerprint import Fingerprint, fingerprint, readable
from erase_plugins.artifacts.names import ORIGINAL, base_parameters, canonical, live_parameters
from erase_plugins.errors import Unsupported
from erase_plugins.families.hosts import host_configs, host_name, offload_groups, part_of
from erase_plugins.families.model import Model, ModelSpec, ModuleRef


class HostedModel(Model):
    """Reads a host; changes nothing in it.

    Args:
        host: a pipeline, or a model's own module.
        name: how messages and manifests call the model.
        family: the family that recognises it.
    """

    def __init__(self, host: Any, name: str | None, family: Any) -> None:
        self.host = host
        self.info = self._spec(family, host_name(host, name), host_configs(host))
        self._modules: dict[tuple[str, str], nn.Module] = {}
        self._held: dict[str, Any] | None = None
        for component in family.components:
            owner = part_of(host, component)
            if owner is not None:
                for path, module in owner.named_modules():
                    self._modules.setdefault((component, canonical(component, path)), module)

    def _spec(self, family: Any, name: str, configs: Mapping[str, Mapping[str, Any]]) -> ModelSpec:
        """What is known of the host; of a kind whose configuration does not tell its modules, by looking at them."""
        found: ModelSpec = family.info(name, configs)
        return found

    def network(self, role: str) -> Any:
        """The live part that has a capability (the first one, where several have it together).

        Raises:
            Unsupported: the model does not have the capability.
        """
        return part_of(self.host, self.info.components(role)[0])

    @property
    def _main(self) -> nn.Module:
        """The network that does the work: the denoiser of a pipeline, the only one of other models."""
        first = self.info.roles.get("denoiser", self.family.components[0])
        found: nn.Module = part_of(self.host, first if isinstance(first, str) else first[0])
        return found

    @property
    def device(self) -> torch.device:
        return next(self._main.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(part.dtype for part in self._main.parameters() if part.is_floating_point())

    def check_readable(self) -> None:
        for component in self.family.components:
            owner = part_of(self.host, component)
            if owner is None:
                continue
            if any(getattr(group, "offload_to_disk_path", None) for group in offload_groups(owner)):
                raise Unsupported(
                    f"{component} lies on disk between passes (group offloading with offload_to_disk_path); erase on "
                    "the model without it, then apply the artifact and offload it afterwards"
                )
            for name, parameter in base_parameters(component, owner).items():
                if not readable(parameter):
                    state = "offloaded layer by layer" if parameter.device.type == "meta" else "quantised"
                    raise Unsupported(
                        f"{component} is {state} ({name} cannot be read); erase on the model in float32, float16 or "
                        "bfloat16, then apply the artifact to this one"
                    )

    def module(self, ref: ModuleRef) -> nn.Module:
        try:
            module = self._modules[(ref.component, ref.path)]
        except KeyError:
            raise Unsupported(f"{self.info.model} has no module {ref.component} {ref.path}") from None
        return getattr(module, "base_layer", module)  # peft wrapper around the layer

    def weight(self, ref: ModuleRef) -> Tensor:
        weight: Tensor = self.module(ref).weight  # type: ignore[assignment]
        return weight.detach()

    def base_weight(self, ref: ModuleRef) -> Tensor:
        parameter = self.module(ref).get_parameter("weight")
        return getattr(parameter, ORIGINAL, parameter).detach()

    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        # of a single module all of them: nothing else says that its norms are not to be trained
        return tuple(self.host.parameters()) if isinstance(self.host, nn.Module) else super().own_parameters()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block nobody changes the host's parameters, so what is read off all of them is read once."""
        before, self._held = self._held, {} if self._held is None else self._held
        try:
            yield
        finally:
            self._held = before

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        if self._held is None:
            return read()
        if name not in self._held:
            self._held[name] = read()
        return self._held[name]

    def live(self, component: str) -> Mapping[str, nn.Parameter]:
        """Canonical names of a part's own parameters to the parameters; empty without the part."""
        module = part_of(self.host, component)
        if module is None:
            return {}
        found: Mapping[str, nn.Parameter] = self._once(f"live {component}", lambda: live_parameters(component, module))
        return found

    def fingerprint(self) -> Mapping[str, Fingerprint]:
        found: Mapping[str, Fingerprint] = self._once("fingerprint", self._fingerprints)
        return found

    def _fingerprints(self) -> Mapping[str, Fingerprint]:
        return {
            component: self._fingerprint(component)
            for component in self.family.components
            if part_of(self.host, component) is not None
        }

    def _fingerprint(self, component: str) -> Fingerprint:
        return fingerprint(base_parameters(component, part_of(self.host, component)))
