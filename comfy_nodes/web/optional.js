// Templates that compare with nodes of other packs hold those beside the graph, in "extra". They join it where the editor
// knows their kinds; a note in the graph says which do.
import { app } from "../../scripts/app.js";

const known = (kind) => Boolean(globalThis.LiteGraph?.registered_node_types?.[kind]);

/** Adds one part of a file to its graph: nodes, and wires at both of their ends. */
function join(content, { kinds, note, absent, present, nodes, links }) {
  const kind = kinds.find(known), there = new Set(content.nodes.map((node) => node.id));
  if (!kind || nodes.some((node) => there.has(node.id))) return;
  content.nodes.push(...JSON.parse(JSON.stringify(nodes)).map((node) => (node.type === kinds[0] ? { ...node, type: kind } : node)));
  for (const link of links) {
    const [number, source, slot] = link;
    const output = content.nodes.find((node) => node.id === source)?.outputs?.[slot];
    if (!output) continue;
    output.links = [...new Set([...(output.links ?? []), number])];
    content.links.push([...link]);
  }
  const told = content.nodes.find((node) => node.id === note);
  if (told?.widgets_values) told.widgets_values[0] = String(told.widgets_values[0]).replace(absent, present);
}

app.registerExtension({
  name: "ErasePlugins.Optional",
  beforeConfigureGraph(content) {
    const parts = content?.extra?.erase_plugins?.where_installed;
    if (!Array.isArray(parts) || !Array.isArray(content.nodes) || !Array.isArray(content.links)) return;
    for (const part of parts) if (Array.isArray(part?.kinds) && Array.isArray(part.nodes) && Array.isArray(part.links)) join(content, part);
  },
});
