// "Erase this from the model": takes selected words of a prompt out of the model that draws it. The concept becomes a line
// of the Erase node in front of the sampler, which is made and connected if there is none.
import { app } from "../../scripts/app.js";
import { allNodes, nodesOf, originsOf, targetsOf } from "./graph.js";
import { placeNode } from "./layout.js";
import { kindOf, linkOf, tell, wire } from "./parts.js";
import { say } from "./texts.js";

const KIND = "EraseNegative";
const LABEL = "Erase this from the model"; // translated by the editor where it is the name of a command
const label = () => say("Erase this from the model");
const COMMAND = "ErasePlugins.EraseSelection";
const LONGEST = 60; // letters of a prompt that is taken whole, where nothing is selected
const GAP = 60;
const BOX = "textarea";

const slotOf = (node, name) => (node.inputs ?? []).findIndex((input) => input.name === name);

/** What feeds an input in its own graph: [node, output], or undefined. Inside a subgraph it may be what comes into it. */
function source({ graph, inputs }, name) {
  const link = linkOf(graph, (inputs ?? []).find((input) => input.name === name)?.link);
  if (!link) return undefined;
  const outside = graph.inputNode && String(link.origin_id) === String(graph.inputNode.id);
  const found = outside ? graph.inputNode : graph.getNodeById(link.origin_id);
  return found ? [found, link.origin_slot] : undefined;
}

/** Nodes that an output leads to, in subgraphs, too. */
const targets = (node) => (node.outputs ?? []).flatMap((output) => targetsOf(node, output).map(([next]) => next));

/** The node of a text, or those inside a subgraph whose text is shown on it. */
function startsOf(node) {
  if (!node.subgraph) return [node];
  const { subgraph } = node, shown = (node.properties?.proxyWidgets ?? []).map(([id]) => subgraph.getNodeById(id));
  const given = (subgraph.inputs ?? []).filter((input) => input.type === "STRING").flatMap((input) => input.linkIds);
  return [...shown, ...given.map((id) => subgraph.getNodeById(linkOf(subgraph, id)?.target_id))].filter(Boolean);
}

/** Every node behind one that takes a MODEL: the samplers that draw a prompt. */
function samplersBehind(node) {
  const seen = new Set(), found = [], starts = startsOf(node);
  for (let line = [...starts]; line.length; ) {
    const here = line.shift();
    if (seen.has(here)) continue;
    seen.add(here);
    if (!starts.includes(here) && here.inputs?.some((input) => input.name === "model" && input.type === "MODEL")) found.push(here);
    else line.push(...targets(here));
  }
  return found;
}

/** The Erase nodes in front of a sampler, along MODEL: one for each place where its subgraph stands; none if one lacks it. */
function erasersBefore(here, hosts = [], count = 0) {
  const place = (here.inputs ?? []).findIndex((input) => input.type === "MODEL");
  const before = ([from, , inside]) => (kindOf(from) === KIND ? [from] : erasersBefore(from, inside, count + 1));
  const found = count < 100 ? originsOf(here, place, hosts).map(before) : [];
  return found.every((item) => item.length) ? found.flat() : [];
}

/** A place for a node, with its left edge there, below everything else that stands in its columns. */
function freePlace(node, left) {
  const others = nodesOf(node.graph).filter((other) => other !== node);
  const near = others.filter((other) => other.pos[0] < left + node.size[0] && other.pos[0] + other.size[0] > left);
  return [left, Math.max(20, ...near.map((other) => other.pos[1] + other.size[1])) + GAP];
}

/** An Erase node between the model of a sampler and all that it feeds there; prompts get its CLIP. */
function eraserFor(sampler) {
  const { graph } = sampler, model = source(sampler, "model");
  const prompts = ["positive", "negative"].flatMap((name) => source(sampler, name)?.[0] ?? []);
  const clip = prompts.map((node) => source(node, "clip")).find(Boolean);
  const node = globalThis.LiteGraph.createNode(KIND);
  graph.add(node);
  setText(node, "");
  if (model) wire(model, node, slotOf(node, "model"));
  if (clip) wire(clip, node, slotOf(node, "clip"));
  wire([node, 0], sampler, slotOf(sampler, "model"));
  const readers = prompts.filter((prompt) => clip && source(prompt, "clip")?.[0] === clip[0]);
  for (const prompt of new Set(readers)) wire([node, 1], prompt, slotOf(prompt, "clip"));
  placeNode(node, () => freePlace(node, sampler.pos[0] - node.size[0] - GAP));
  return node;
}

function setText(node, text) {
  const widget = node.widgets.find((item) => item.name === "erase");
  widget.value = text;
  widget.callback?.(text);
}

const nameOf = (line) => line.replace(/^[\s#]*/, "").split(/\s*(?:->|→|:\s*-?[\d.]+\s*$)/)[0].trim().toLowerCase();

/** Adds lines to an Erase node; one whose concept is there already is switched on instead. Gives how many are new. */
export function addLines(node, lines) {
  const widget = node.widgets.find((item) => item.name === "erase");
  const kept = String(widget.value ?? "").split("\n").filter((line) => line.trim());
  let count = 0;
  for (const line of lines) {
    const place = kept.findIndex((old) => nameOf(old) === nameOf(line));
    if (place < 0) count += kept.push(line) ? 1 : 0;
    else kept[place] = kept[place].replace(/^[\s#]+/, "");
  }
  setText(node, kept.join("\n"));
  app.graph.setDirtyCanvas(true, true);
  return count;
}

/** The Erase nodes in front of samplers: those that are there, else a new one for all that draw from the same model. */
function erasersOf(samplers) {
  const made = new Map();
  return new Set(samplers.flatMap((sampler) => {
    const there = erasersBefore(sampler), model = source(sampler, "model");
    if (there.length) return there;
    if (!model) return eraserFor(sampler);
    const key = `${sampler.graph.id} ${model[0].id} ${model[1]}`;
    if (made.has(key)) wire([made.get(key), 0], sampler, slotOf(sampler, "model"));
    else made.set(key, eraserFor(sampler));
    return made.get(key);
  }));
}

/** The Erase node that a person means: a selected one, the only one, or a new one in front of the first sampler. */
export function meantEraser() {
  const selected = [...(app.canvas?.selectedItems ?? [])].find((item) => kindOf(item) === KIND);
  if (selected) return selected;
  const graph = app.canvas?.graph ?? app.graph;
  const found = [...nodesOf(graph), ...allNodes()].find((node) => kindOf(node) === KIND);
  if (found) return found;
  const takes = (node) => node.inputs?.some((input) => input.name === "model" && input.type === "MODEL");
  const sampler = nodesOf(graph).find((node) => takes(node) && slotOf(node, "positive") >= 0 && source(node, "model"));
  if (sampler) return eraserFor(sampler);
  const node = globalThis.LiteGraph.createNode(KIND);
  graph.add(node);
  setText(node, "");
  placeNode(node, () => freePlace(node, 100));
  return node;
}

/** Changes of the graph as one step to undo. */
export function asOneStep(change) {
  const graph = app.canvas?.graph ?? app.graph;
  graph.beforeChange?.();
  try {
    return change();
  } finally {
    graph.afterChange?.();
  }
}

// --- which words ----------------------------------------------------------------------------------------------------

/** The text box of a node, wherever the renderer keeps it. */
function boxOf(node) {
  const inside = document.querySelector(`[data-node-id="${node.id}"] ${BOX}`);
  return inside ?? (node.widgets ?? []).map((widget) => widget.element ?? widget.inputEl).find((item) => item?.matches?.(BOX));
}

/** The node of a text box. */
function nodeOf(box) {
  const graph = app.canvas?.graph ?? app.graph, id = box.closest("[data-node-id]")?.dataset.nodeId;
  if (id !== undefined) return nodesOf(graph).find((node) => String(node.id) === id);
  return nodesOf(graph).find((node) => node.widgets?.some((widget) => (widget.element ?? widget.inputEl) === box));
}

const selectedNode = () => [...(app.canvas?.selectedItems ?? [])].find((item) => boxOf(item));

function wordsOf(box) {
  const picked = box.value.slice(box.selectionStart, box.selectionEnd).trim();
  const whole = picked || box.value.trim();
  return whole.length > (picked ? 200 : LONGEST) || whole.includes("\n") ? "" : whole;
}

/** Erases the selected words of a prompt, or all of a short one. */
function eraseSelected(given) {
  const active = document.activeElement?.matches?.(BOX) ? document.activeElement : undefined;
  const node = given ?? (active ? nodeOf(active) : selectedNode());
  const box = active && node && nodeOf(active) === node ? active : node && boxOf(node);
  if (!box || kindOf(node) === KIND) return tell("warn", label(), say("select words in the text box of a prompt first"));
  const words = wordsOf(box).replace(/[()#:,]+/g, " ").replace(/\s+/g, " ").trim();
  if (!words) return tell("warn", label(), say("select the words to erase, one concept on one line"));
  const samplers = samplersBehind(node);
  if (!samplers.length) return tell("warn", label(), say("this text leads to no sampler; connect it, or write the words into an Erase node"));
  const done = asOneStep(() => [...erasersOf(samplers)].map((item) => addLines(item, [words])));
  const some = done.some(Boolean);
  return tell("success", label(), some ? say("'%s' is erased in front of what draws it", words) : say("'%s' was there already and is on", words));
}

const hasText = (node) => Boolean(node?.widgets?.length) && kindOf(node) !== KIND && Boolean(boxOf(node));

app.registerExtension({
  name: "ErasePlugins.Insert",
  commands: [{ id: COMMAND, label: LABEL, icon: "pi pi-eraser", function: () => eraseSelected() }],
  keybindings: [{ combo: { key: "e", alt: true, shift: true }, commandId: COMMAND }],
  getNodeMenuItems: (node) => (hasText(node) ? [{ content: label(), callback: () => eraseSelected(node) }] : []),
  getSelectionToolboxCommands: (item) => (hasText(item) ? [COMMAND] : []),
});
