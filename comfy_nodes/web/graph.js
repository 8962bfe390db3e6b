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

/** Nodes that stand for a subgraph: the innermost of the way that led into it, or all that are on where no way is known. */
function usesOf(graph, hosts) {
  return hosts.length ? [hosts.at(-1)] : allNodes().filter((node) => node.subgraph === graph && !isOff(node));
}

/** A node on the way that led to it, as a text: a subgraph that stands in two places holds two of it. */
export const onItsWay = (node, hosts) => [...hosts, node].map((item) => `${item.graph?.id}/${item.id}`).join(":");

/** What an output leads to, wherever that is: [node, number of the input, nodes of the subgraphs it was found in, from the
 * outermost] each. */
export function targetsOf(node, output, hosts = []) {
  const found = [], seen = new Map();
  const follow = (graph, ids, inside) => {
    for (const link of (ids ?? []).map((id) => linkOf(graph, id))) {
      const ways = seen.get(link) ?? new Set(), way = inside.map((item) => item.id).join(":");
      if (!link || ways.has(way)) continue;
      seen.set(link, ways.add(way));
      if (same(link.target_id, graph.outputNode?.id)) {
        for (const item of usesOf(graph, inside)) follow(item.graph, item.outputs?.[link.target_slot]?.links, inside.slice(0, -1));
        continue;
      }
      const next = graph.getNodeById(link.target_id);
      if (!next) continue;
      if (next.subgraph && !isOff(next)) follow(next.subgraph, next.subgraph.inputs?.[link.target_slot]?.linkIds, [...inside, next]);
      else if (kindOf(next) === SET) {
        const named = (item) => kindOf(item) === GET && item.widgets?.[0]?.value === next.widgets?.[0]?.value;
        for (const item of nodesOf(graph).filter(named)) follow(graph, item.outputs?.[0]?.links, inside);
      } else found.push([next, link.target_slot, inside]);
    }
  };
  follow(node.graph, output.links, hosts);
  return found;
}

/** Where an input comes from, wherever that is: [node, number of the output, nodes of the subgraphs it was found in, the
 * subgraph's own input if nothing is connected there] each. Several only in a subgraph that stands in several places. */
export function originsOf(node, input, hosts = []) {
  const found = [];
  const follow = (graph, id, inside, count) => {
    const link = linkOf(graph, id);
    if (!link || count > 100) return;
    const from = graph.getNodeById(link.origin_id);
    if (same(link.origin_id, graph.inputNode?.id)) {
      for (const out of usesOf(graph, inside)) {
        const outside = out.inputs?.[link.origin_slot], rest = inside.slice(0, -1);
        if (outside && (outside.link ?? null) === null) found.push([out, link.origin_slot, rest, outside]);
        else follow(out.graph, outside?.link, rest, count + 1);
      }
    } else if (from?.subgraph && !isOff(from)) {
      follow(from.subgraph, from.subgraph.outputs?.[link.origin_slot]?.linkIds?.[0], [...inside, from], count + 1);
    } else if (from) found.push([from, link.origin_slot, inside]);
  };
  follow(node.graph, node.inputs?.[input]?.link, hosts, 0);
  return found;
}

/** The value of a widget: that of the subgraph's own widget, or of the node, where one is connected. */
export function valueOf(node, name, hosts) {
  const own = node.widgets?.find((widget) => widget.name === name)?.value;
  const place = (node.inputs ?? []).findIndex((input) => input.widget?.name === name && (input.link ?? null) !== null);
  if (place < 0) return own;
  const [from, , , outside] = originsOf(node, place, hosts)[0] ?? [];
  const shown = outside ? from.getWidgetFromSlot?.(outside) : from?.widgets?.[0];
  return shown?.value ?? own;
}
