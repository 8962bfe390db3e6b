// Ways through a graph: along its wires, into subgraphs and out of them, and over nodes that hand a wire on by a name.
import { app } from "../../scripts/app.js";
import { kindOf, linkOf } from "./parts.js";

const OFF = new Set([2, 4]); // muted, bypassed
const SET = "SetNode", GET = "GetNode"; // of KJNodes: what goes into one comes out of all others of its name

export const nodesOf = (graph) => graph?.nodes ?? graph?._nodes ?? [];
export const isOff = (node) => OFF.has(node.mode);
const same = (one, two) => one !== undefined && two !== undefined && String(one) === String(two);

/** Every node of all graphs. Subgraphs that stand in several places are one graph. */
export function allNodes(graph = app.rootGraph ?? app.graph, seen = new Set()) {
  if (!graph || seen.has(graph)) return [];
  seen.add(graph);
  return nodesOf(graph).flatMap((node) => [node, ...allNodes(node.subgraph, seen)]);
}

/** Nodes that stand for a subgraph. */
const hostsOf = (graph) => allNodes().filter((node) => node.subgraph === graph);

/** What an output leads to, wherever that is: [node, number of the input, node of the subgraph it was found in] each. */
export function targetsOf(node, output) {
  const found = [], seen = new Set();
  const follow = (graph, ids, host) => {
    for (const link of (ids ?? []).map((id) => linkOf(graph, id))) {
      if (!link || seen.has(link)) continue;
      seen.add(link);
      if (same(link.target_id, graph.outputNode?.id)) {
        const outside = (host ? [host] : hostsOf(graph)).filter((item) => !isOff(item));
        for (const item of outside) follow(item.graph, item.outputs?.[link.target_slot]?.links);
        continue;
      }
      const next = graph.getNodeById(link.target_id);
      if (!next) continue;
      if (next.subgraph && !isOff(next)) follow(next.subgraph, next.subgraph.inputs?.[link.target_slot]?.linkIds, next);
      else if (kindOf(next) === SET) {
        const named = (item) => kindOf(item) === GET && item.widgets?.[0]?.value === next.widgets?.[0]?.value;
        for (const item of nodesOf(graph).filter(named)) follow(graph, item.outputs?.[0]?.links, host);
      } else found.push([next, link.target_slot, host]);
    }
  };
  follow(node.graph, output.links);
  return found;
}

/** Where an input comes from, wherever that is: [node, number of the output]; undefined where nothing is connected. */
export function originOf(node, input, host) {
  let graph = node.graph, id = node.inputs?.[input]?.link, inside = host;
  for (let count = 0; count < 100; count += 1) {
    const link = linkOf(graph, id);
    if (!link) return undefined;
    const found = graph.getNodeById(link.origin_id);
    if (same(link.origin_id, graph.inputNode?.id)) {
      const out = inside ?? hostsOf(graph)[0];
      if (!out) return undefined;
      const outside = out.inputs?.[link.origin_slot];
      if (outside && (outside.link ?? null) === null) return [out, link.origin_slot, outside];
      [graph, id, inside] = [out.graph, outside?.link, undefined];
    } else if (found?.subgraph && !isOff(found)) {
      [graph, id, inside] = [found.subgraph, found.subgraph.outputs?.[link.origin_slot]?.linkIds?.[0], found];
    } else return found ? [found, link.origin_slot] : undefined;
  }
  return undefined;
}

/** The value of a widget: that of the subgraph's own widget, or of the node, where one is connected. */
export function valueOf(node, name, host) {
  const own = node.widgets?.find((widget) => widget.name === name)?.value;
  const place = (node.inputs ?? []).findIndex((input) => input.widget?.name === name && (input.link ?? null) !== null);
  if (place < 0) return own;
  const [from, , outside] = originOf(node, place, host) ?? [];
  const shown = outside ? from.getWidgetFromSlot?.(outside) : from?.widgets?.[0];
  return shown?.value ?? own;
}
