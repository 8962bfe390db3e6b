// The graph around an Erase node: its other sockets are connected with its first one, and LoRAs behind it are told to it.
import { app } from "../../scripts/app.js";
import { kindOf, linkOf, make, replaceBox, wire } from "./parts.js";
import { KIND } from "./rows.js";

const INPUT = 1; // LiteGraph's word for the left side of a node
const OFF = new Set([2, 4]); // muted, bypassed

/** The nearest node in front, along MODEL, with a free or used output of a type; [node, slot] or undefined. */
function inFront(node, type) {
  const seen = new Set();
  for (let here = node; here && !seen.has(here.id); ) {
    seen.add(here.id);
    const slot = here === node ? -1 : (here.outputs ?? []).findIndex((output) => output.type === type);
    if (slot >= 0) return [here, slot];
    const input = here.inputs?.find((item) => item.type === "MODEL" && item.link !== null && item.link !== undefined);
    const link = input && linkOf(node.graph, input.link);
    here = link && node.graph.getNodeById(link.origin_id);
  }
  return undefined;
}

/** CLIP and VAE come from where MODEL comes from; what the person connected stays. */
function connectOthers(node) {
  for (const [name, type] of [["clip", "CLIP"], ["vae", "VAE"]]) {
    const place = node.inputs?.findIndex((input) => input.name === name) ?? -1;
    if (place < 0 || (node.inputs[place].link ?? null) !== null) continue;
    const found = inFront(node, type);
    if (found) wire(found, node, place);
  }
}

/** What nodes behind do: LoRA files, "name : strength of the model : strength of the text encoder" a line, and merges. */
export function behind(node) {
  const found = [], seen = new Set(), waiting = [...(node.outputs ?? []).slice(0, 2)];
  while (waiting.length) {
    for (const id of waiting.shift().links ?? []) {
      const link = linkOf(node.graph, id);
      const next = link && node.graph.getNodeById(link.target_id);
      if (!next || seen.has(next.id)) continue;
      seen.add(next.id);
      if (!OFF.has(next.mode)) found.push(...(/merge/i.test(kindOf(next)) ? [`merge: ${kindOf(next)}`] : lorasOf(next)));
      waiting.push(...(next.outputs ?? []).filter((output) => ["MODEL", "CLIP"].includes(output.type)));
    }
  }
  return found.join("\n");
}

function lorasOf(node) {
  const value = (name) => node.widgets?.find((widget) => widget.name === name)?.value;
  return (node.widgets ?? []).flatMap((widget) => {
    const held = widget.value;
    if (typeof held === "object" && held?.lora && held.on) return [`${held.lora} : ${held.strength} : ${held.strengthTwo ?? held.strength}`];
    if (!/lora/i.test(widget.name) || typeof held !== "string" || !held.endsWith(".safetensors")) return [];
    const model = value("strength_model") ?? value("strength") ?? 1;
    const clips = node.inputs?.some((input) => input.type === "CLIP");
    return [`${held} : ${model} : ${clips ? (value("strength_clip") ?? model) : 0}`];
  });
}

app.registerExtension({
  name: "ErasePlugins.Wiring",
  nodeCreated(node) {
    if (kindOf(node) !== KIND) return;
    const told = replaceBox(node, "behind", make("div", { class: "erase-behind" }), {
      height: () => 0, get: () => "", set: () => {},
    });
    if (told) told.serializeValue = () => behind(node);
    const { onConnectionsChange } = node;
    node.onConnectionsChange = function (side, place, connected, ...more) {
      onConnectionsChange?.call(this, side, place, connected, ...more);
      if (side !== INPUT || !connected || app.configuringGraph || node.inputs?.[place]?.name !== "model") return;
      connectOthers(node);
    };
  },
});
