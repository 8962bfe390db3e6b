// A graph with our nodes stands as its file lays it out. Nodes of editor 1.32 that are drawn by Vue measure themselves while
// the view still moves, and are then left where that measure says: closer together than in the file, one over the other.
import { app } from "../../scripts/app.js";
import { kindOf } from "./parts.js";

const TITLE = 30; // above the place of a node
const LOOKS = [150, 400, 800, 1500]; // milliseconds after loading
const SPREADS = [1.2, 1.35, 1.5]; // times the distances of the file; that editor draws nodes 1.2 times as large
let saved = new Map(); // id of a node -> its box in the file
let file = [];
let load = 0;

const boxOf = ({ pos, size }) => [Number(pos[0]), Number(pos[1]) - TITLE, Number(size[0]), Number(size[1]) + TITLE];
const meet = (one, two) => [0, 1].every((axis) => one[axis] < two[axis] + two[axis + 2] && two[axis] < one[axis] + one[axis + 2]);

/** Pairs of nodes of which one lies on the other, and which do not in the file. */
function collisions(nodes, boxes) {
  return nodes.flatMap((one, place) => nodes.slice(place + 1).filter((two) =>
    meet(boxes.get(one.id), boxes.get(two.id)) && !meet(saved.get(one.id), saved.get(two.id))));
}

function putBack() {
  const nodes = app.graph?.nodes?.filter((node) => saved.has(node.id)) ?? [];
  if (!globalThis.LiteGraph?.vueNodesMode || !nodes.some((node) => kindOf(node).startsWith("Erase"))) return;
  const now = new Map(nodes.map((node) => [node.id, boxOf(node)]));
  if (!collisions(nodes, now).length) return;
  const corner = [0, 1].map((axis) => Math.min(...nodes.map((node) => saved.get(node.id)[axis])));
  const widths = nodes.map((node) => now.get(node.id)[2] / saved.get(node.id)[2]).sort((one, two) => one - two);
  for (const spread of [widths[Math.floor(widths.length / 2)], ...SPREADS]) {
    const wanted = new Map(nodes.map((node) => {
      const from = saved.get(node.id);
      return [node.id, [...corner.map((least, axis) => least + spread * (from[axis] - least)), ...now.get(node.id).slice(2)]];
    }));
    if (collisions(nodes, wanted).length) continue;
    const places = nodes.map((node) => [node, wanted.get(node.id)]).map(([node, [x, y]]) => ({ node, newPos: { x, y: y + TITLE } }));
    app.canvas.repositionNodesVueMode?.(places);
    app.canvas.setDirty(true, true);
    return;
  }
}

/** Puts a new node where `place` says, and again when the editor has measured it, until a person takes over. */
export function placeNode(node, place) {
  node.pos = place();
  if (!globalThis.LiteGraph?.vueNodesMode || !app.canvas.repositionNodesVueMode) return;
  const own = load;
  for (const wait of LOOKS) {
    setTimeout(() => {
      if (own !== load || !node.graph) return;
      const [x, y] = place();
      app.canvas.repositionNodesVueMode([{ node, newPos: { x, y } }]);
    }, wait);
  }
}

app.registerExtension({
  name: "ErasePlugins.Layout",
  setup() {
    window.addEventListener("pointerdown", () => { load += 1; }, { capture: true }); // from then on places are the person's
  },
  beforeConfigureGraph(content) {
    file = content?.nodes ?? []; // other hooks may still add to it
  },
  afterConfigureGraph() {
    const laid = file.filter((node) => node.pos && node.size);
    saved = new Map(laid.map((node) => [node.id, boxOf({ pos: Object.values(node.pos), size: Object.values(node.size) })]));
    const own = (load += 1);
    for (const wait of LOOKS) setTimeout(() => own === load && putBack(), wait);
  },
});
