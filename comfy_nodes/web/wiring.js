// The graph around an Erase node: its other sockets are connected with its first one, and LoRAs behind it are told to it.
import { app } from "../../scripts/app.js";
import { isOff, onItsWay, targetsOf, valueOf } from "./graph.js";
import { kindOf, linkOf, make, replaceBox, wire } from "./parts.js";
import { KIND } from "./rows.js";

const INPUT = 1; // LiteGraph's word for the left side of a node
const CARRIES = new Set(["MODEL", "CLIP", "*"]); // types of outputs that a model may leave by

/** The nearest node in front, along MODEL, with a free or used output of a type, or what comes into the subgraph; [node, slot]
 * or undefined. */
function inFront(node, type) {
  const seen = new Set(), { graph } = node;
  for (let here = node; here && !seen.has(here.id); ) {
    seen.add(here.id);
    const slot = here === node ? -1 : (here.outputs ?? []).findIndex((output) => output.type === type);
    if (slot >= 0) return [here, slot];
    const input = here.inputs?.find((item) => item.type === "MODEL" && item.link !== null && item.link !== undefined);
    const link = input && linkOf(graph, input.link);
    here = link && graph.getNodeById(link.origin_id);
    if (link && !here) {
      const place = (graph.inputNode?.slots ?? []).findIndex((item) => item.type === type);
      return place >= 0 ? [graph.inputNode, place] : undefined;
    }
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

/** What nodes behind do, those in subgraphs included: LoRA files, "name : strength of the model : strength of the text
 * encoder" a line, and merges. */
export function behind(node) {
  const found = [], seen = new Set(), waiting = (node.outputs ?? []).slice(0, 2).map((output) => [node, output, []]);
  while (waiting.length) {
    for (const [next, , hosts] of targetsOf(...waiting.shift())) {
      const way = onItsWay(next, hosts);
      if (seen.has(way)) continue;
      seen.add(way);
      if (!isOff(next)) found.push(...(/merge/i.test(kindOf(next)) ? [`merge: ${kindOf(next)}`] : lorasOf(next, hosts)));
      waiting.push(...(next.outputs ?? []).filter((output) => CARRIES.has(output.type)).map((output) => [next, output, hosts]));
    }
  }
  return found.join("\n");
}

/** A strength; what a pack leaves empty counts 1. */
const number = (...values) => Number(values.find((value) => value !== null && value !== "" && Number.isFinite(Number(value))) ?? 1);

function lorasOf(node, hosts) {
  const clips = node.inputs?.some((input) => input.type === "CLIP");
  const line = (name, model, clip) => `${name} : ${number(model)} : ${clips ? number(clip, model) : 0}`;
  return (node.widgets ?? []).flatMap(({ name }) => {
    const held = valueOf(node, name, hosts), value = (other) => valueOf(node, other, hosts);
    if (Array.isArray(held)) { // LoRA Manager
      return held.filter((item) => item?.name && item.active).map((item) => line(item.name, item.strength, item.clipStrength));
    }
    if (typeof held === "object" && held?.lora && held.on) return [line(held.lora, held.strength, held.strengthTwo)]; // rgthree
    if (!/lora/i.test(name) || typeof held !== "string" || !held.endsWith(".safetensors")) return [];
    return [line(held, value("strength_model") ?? value("strength"), value("strength_clip"))];
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
