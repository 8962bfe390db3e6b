"""Our scripts in graphs with subgraphs, in which people now keep their LoRAs, their prompts and whole pipelines."""

from __future__ import annotations

import pytest

from tests.comfy_nodes.browser.conftest import KIND, LORA_BEHIND

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.smoke,
    pytest.mark.usefixtures("no_error_from_our_files"),
]
_FOLD = """(ids) => {
  const nodes = ids.map((id) => app.graph._nodes.find((node) => String(node.id) === id));
  return String(app.graph.convertToSubgraph(new Set(nodes)).node.id);
}"""
_BY = "app.graph._nodes.find((node) => String(node.id) === id)"


#: the template's loader and the sampler behind its Erase node, which draws without that now
_WITHOUT = """
  const by = (wanted) => app.graph._nodes.find(wanted), erase = by((node) => String(node.id) === id);
  const loader = by((node) => node.type === "ErasePocketLoader");
  const sampler = by((node) => node.title === "Erased: same seed");
  loader.connect(0, sampler, 0);
"""


def selection_erased(page):
    """The prompt of the graph after the command for selected words."""
    page.wait_for_timeout(700)
    page.evaluate("() => app.extensionManager.command.execute('ErasePlugins.EraseSelection')")
    page.wait_for_timeout(300)
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def behind(editor):
    """What the Erase node would be told, wherever it is."""
    output = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    (found,) = [node["inputs"]["behind"] for node in output.values() if node["class_type"] == KIND]
    return found


def test_a_lora_behind_is_seen_in_a_subgraph_and_out_of_one(editor, first):
    lora = editor.page.evaluate(LORA_BEHIND, [first, "a.safetensors"])
    assert behind(editor) == "a.safetensors : 1 : 1"
    inside = editor.page.evaluate(_FOLD, [lora])
    assert behind(editor) == "a.safetensors : 1 : 1"
    editor.page.evaluate(f"(id) => {{ {_BY}.mode = 4; }}", inside)
    assert behind(editor) == ""
    editor.page.evaluate(f"(id) => {{ {_BY}.mode = 0; }}", inside)
    editor.page.evaluate(_FOLD, [first])
    assert behind(editor) == "a.safetensors : 1 : 1"


def test_a_lora_behind_nodes_that_hand_a_model_on_by_a_name_is_seen(editor, first):
    """As KJNodes' Set and Get do, without a wire between them."""
    editor.page.evaluate(LORA_BEHIND, [first, "a.safetensors"])
    editor.page.evaluate(
        f"""(id) => {{
          const named = (kind, more) => {{
            class Named extends LiteGraph.LGraphNode {{
              constructor() {{ super(kind); this.isVirtualNode = true; this.addWidget("text", "name", "erased"); more(this); }}
            }}
            LiteGraph.registerNodeType(kind, Named);
            const node = LiteGraph.createNode(kind);
            app.graph.add(node);
            return node;
          }};
          const set = named("SetNode", (node) => node.addInput("model", "*"));
          const get = named("GetNode", (node) => node.addOutput("model", "*"));
          const erase = {_BY}, lora = app.graph._nodes.find((node) => node.type === "LoraLoader");
          lora.disconnectInput(0);
          lora.disconnectInput(1);
          erase.connect(0, set, 0);
          get.connect(0, lora, 0);
        }}""",
        first,
    )
    found = editor.page.evaluate(
        f"(id) => {{ const node = {_BY}; return node.widgets.find((w) => w.name === 'behind').serializeValue(); }}",
        first,
    )
    assert found == "a.safetensors : 1 : 1"


def test_strengths_that_a_pack_leaves_empty_count_one_and_lists_of_loras_are_read(editor, first):
    lora = editor.page.evaluate(LORA_BEHIND, [first, "a.safetensors"])
    editor.page.evaluate(
        f"""(id) => {{
          const node = {_BY};
          node.widgets.find((widget) => widget.name === "strength_model").value = null;
          node.widgets.push({{ name: "loras", value: [
            {{ name: "b", active: true, strength: "0.5", clipStrength: 0 }}, {{ name: "c", active: false, strength: 1 }}] }});
        }}""",
        lora,
    )
    assert behind(editor) == "a.safetensors : 1 : 1\nb : 0.5 : 0"


def test_words_of_a_prompt_in_a_subgraph_are_erased_in_front_of_its_sampler(editor, first):
    """The loader stays outside: the new Erase node stands between what comes into the subgraph and the sampler."""
    page = editor.page
    host = page.evaluate(
        """(id) => {"""
        + _WITHOUT
        + """
          app.graph.remove(erase);
          const prompts = ["positive", "negative"].map((name) => {
            const prompt = LiteGraph.createNode("CLIPTextEncode");
            app.graph.add(prompt);
            loader.connect(1, prompt, 0);
            prompt.connect(0, sampler, sampler.inputs.findIndex((input) => input.name === name));
            prompt.widgets[0].value = "a pizza";
            return prompt;
          });
          const { node } = app.graph.convertToSubgraph(new Set([...prompts, sampler]));
          app.canvas.openSubgraph?.(node.subgraph, node);
          if (app.canvas.graph !== node.subgraph) app.canvas.setGraph(node.subgraph);
          const prompt = node.subgraph.nodes.find((item) => item.type === "CLIPTextEncode");
          app.canvas.select?.(prompt);
          return String(node.id);
        }""",
        first,
    )
    output = selection_erased(page)
    (erase,) = [key for key, node in output.items() if node["class_type"] == KIND]
    (loader,) = [key for key, node in output.items() if node["class_type"] == "ErasePocketLoader"]
    assert erase.startswith(f"{host}:")
    inputs = output[erase]["inputs"]
    assert (inputs["model"], inputs["clip"], inputs["erase"]) == ([loader, 0], [loader, 1], "a pizza")
    drawn = [node["inputs"]["model"] for node in output.values() if node["class_type"] == "KSampler"]
    assert [erase, 0] in drawn


#: the LoRA node goes into a subgraph that shows which file it takes
_PROMOTED = f"""
  const {{ subgraph, node }} = app.graph.convertToSubgraph(new Set([{_BY.replace("=== id", "=== lora")}]));
  const inner = subgraph.nodes[0], place = inner.inputs.findIndex((input) => input.widget?.name === "lora_name");
  const entrance = subgraph.addInput("chosen", "COMBO");
  Reflect.apply(entrance.connect, entrance, [inner.inputs[place], inner]);
"""


def test_a_promoted_lora_is_read_from_the_subgraph_that_shows_it(editor, first):
    """What a person chooses on the subgraph counts, not what the node inside once said."""
    lora = editor.page.evaluate(LORA_BEHIND, [first, "a.safetensors"])
    found = editor.page.evaluate(
        f"""([id, lora]) => {{
          {_PROMOTED}
          const widget = node.widgets?.find((item) => item.name === "chosen" || item.name === "lora_name");
          if (widget) widget.value = "b.safetensors";
          return [Boolean(widget), inner.widgets[0].value];
        }}""",
        [first, lora],
    )
    assert found[0]
    assert behind(editor) == "b.safetensors : 1 : 1"


def test_two_uses_of_one_subgraph_are_told_apart(editor, first):
    """One after the other, each with a LoRA of its own."""
    lora = editor.page.evaluate(LORA_BEHIND, [first, "a.safetensors"])
    found = editor.page.evaluate(
        f"""([id, lora]) => {{
          {_PROMOTED}
          const second = LiteGraph.createNode(subgraph.id);
          app.graph.add(second);
          const slot = (item, side, type) => item[side].findIndex((one) => one.type === type);
          for (const type of ["MODEL", "CLIP"]) {{
            node.connect(slot(node, "outputs", type), second, slot(second, "inputs", type));
          }}
          const names = ["b.safetensors", "c.safetensors"];
          return [node, second].map((item, number) => {{
            const widget = item.widgets?.find((one) => one.name === "chosen" || one.name === "lora_name");
            if (widget) widget.value = names[number];
            return [Boolean(widget), item.subgraph === subgraph];
          }});
        }}""",
        [first, lora],
    )
    assert found == [[True, True], [True, True]]
    assert behind(editor) == "b.safetensors : 1 : 1\nc.safetensors : 1 : 1"


def test_an_erase_node_in_front_of_one_use_does_not_stand_for_the_other(editor, first):
    """Words of a prompt inside are erased for both uses, also where only one has an Erase node outside."""
    page = editor.page
    hosts = page.evaluate(
        """(id) => {"""
        + _WITHOUT
        + """
          const prompt = LiteGraph.createNode("CLIPTextEncode");
          app.graph.add(prompt);
          loader.connect(1, prompt, 0);
          for (const name of ["positive", "negative"]) {
            prompt.connect(0, sampler, sampler.inputs.findIndex((input) => input.name === name));
          }
          prompt.widgets[0].value = "a pizza";
          const { subgraph, node } = app.graph.convertToSubgraph(new Set([prompt, sampler]));
          const second = LiteGraph.createNode(subgraph.id);
          app.graph.add(second);
          const place = (item, type) => item.inputs.findIndex((input) => input.type === type);
          node.inputs.forEach((input, number) => {
            const link = input.link === null ? undefined : app.graph.getLink?.(input.link) ?? app.graph.links.get(input.link);
            if (link) app.graph.getNodeById(link.origin_id).connect(link.origin_slot, second, number);
          });
          node.outputs.forEach((output, number) => {
            const link = output.links?.length ? app.graph.getLink?.(output.links[0]) ?? app.graph.links.get(output.links[0]) : undefined;
            const next = link && app.graph.getNodeById(link.target_id);
            const twin = next && LiteGraph.createNode("PreviewImage");
            if (!twin) return;
            app.graph.add(twin);
            if (next.type === "VAEDecode") {
              const decode = LiteGraph.createNode("VAEDecode");
              app.graph.add(decode);
              second.connect(number, decode, 0);
              loader.connect(2, decode, 1);
              decode.connect(0, twin, 0);
            } else second.connect(number, twin, 0);
          });
          erase.connect(0, node, place(node, "MODEL"));
          app.canvas.openSubgraph?.(subgraph, node);
          if (app.canvas.graph !== subgraph) app.canvas.setGraph(subgraph);
          app.canvas.select?.(subgraph.nodes.find((item) => item.type === "CLIPTextEncode"));
          return [node, second].map((item) => String(item.id));
        }""",
        first,
    )
    output = selection_erased(page)
    samplers = {key: node for key, node in output.items() if node["class_type"] == "KSampler" and ":" in key}
    assert {key.split(":")[0] for key in samplers} == set(hosts)
    for node in samplers.values():
        before = output[node["inputs"]["model"][0]]
        assert before["class_type"] == KIND
        assert "pizza" in before["inputs"]["erase"]
