// The library at the left side of the editor: erasures on this computer and on the Hub, with pictures before and after.
// A click adds a card's concepts to the Erase node; dragged onto the canvas, a card becomes a node that loads it.
import { app } from "../../scripts/app.js";
import { tell } from "./parts.js";
import { addLines, asOneStep, meantEraser } from "./insert.js";
import { loaded, say } from "./texts.js";

const LOADER = "EraseLoadArtifact";
const DRAGGED = "application/x-erase-plugins";
const places = () => [["", say("All here")], ["disk", say("On your disk")], ["shipped", say("Comes with erase-plugins")], ["hub", say("On the Hub")]];
const badge = (place) => ({ disk: say("on your disk"), shipped: say("built in"), hub: say("on the Hub") })[place];
const FEW = 200; // cards that are drawn at once

const STYLE = `
.erase-library{display:flex;flex-direction:column;gap:8px;height:100%;padding:10px;box-sizing:border-box;
 font:13px/1.35 system-ui,sans-serif;color:var(--input-text,#ddd)}
.erase-library input,.erase-library select{color:inherit;background:var(--comfy-input-bg,#222);min-width:0;
 border:1px solid var(--border-color,#555);border-radius:6px;padding:5px 8px;font:inherit}
.erase-library .bar{display:flex;gap:6px}.erase-library .bar>*{flex:1}
.erase-library .cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:8px;overflow:auto;
 align-content:start;flex:1;min-height:0}
.erase-library .card{display:flex;flex-direction:column;text-align:left;padding:0;border:1px solid var(--border-color,#555);
 border-radius:8px;overflow:hidden;background:var(--comfy-input-bg,#222);color:inherit;cursor:pointer;font:inherit}
.erase-library .card:hover,.erase-library .card:focus-visible{border-color:var(--p-primary-color,#3b82f6);outline:none}
.erase-library .card img,.erase-library .card .blank{width:100%;aspect-ratio:2;object-fit:cover;display:block}
.erase-library .card .blank{display:flex;align-items:center;justify-content:center;background:#0003;
 color:var(--descrip-text,#999);font-size:12px}
.erase-library .card .facts{padding:6px 8px;display:flex;flex-direction:column;gap:2px;min-width:0}
.erase-library .card .rows{font-weight:600;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.erase-library .card .more{color:var(--descrip-text,#999);font-size:11px;overflow:hidden;text-overflow:ellipsis;
 white-space:nowrap}
.erase-library .said{color:var(--descrip-text,#999);font-size:12px}`;

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children); // strings become text: names come from files of strangers
  return made;
}

async function ask(query) {
  const answer = await app.api.fetchApi(`/erase_plugins/library?${new URLSearchParams(query)}`);
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body.cards;
}

// --- what a card does -------------------------------------------------------------------------------------------------

/** A node that loads a card, at a place of the canvas. */
async function load(card, place) {
  await app.refreshComboInNodes?.();
  const node = globalThis.LiteGraph.createNode(LOADER), graph = app.canvas?.graph ?? app.graph;
  asOneStep(() => {
    node.pos = place;
    graph.add(node);
    const name = card.place === "hub" ? "reference" : "artifact";
    const widget = node.widgets.find((item) => item.name === name);
    widget.value = card.name;
    widget.callback?.(card.name);
  });
  tell("success", card.title, say("connect model and clip of the new node"));
  return node;
}

/** The middle of what is seen of the canvas. */
function middle() {
  const { ds, canvas } = app.canvas, box = canvas.getBoundingClientRect();
  return [box.width / 2 / ds.scale - ds.offset[0], box.height / 2 / ds.scale - ds.offset[1]];
}

/** Concepts go into the Erase node; what names none, such as a LoRA of others, gets a node that loads it. */
async function add(card) {
  if (!card.rows.length) return load(card, middle());
  const count = asOneStep(() => addLines(meantEraser(), card.rows));
  return tell("success", card.title, count ? say("%s: added to the Erase node", card.rows.join(", ")) : say("is in the Erase node already"));
}

function onDrop(event) {
  const data = event.dataTransfer?.getData(DRAGGED);
  if (!data) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const { ds, canvas } = app.canvas, box = canvas.getBoundingClientRect();
  load(JSON.parse(data), [(event.clientX - box.left) / ds.scale - ds.offset[0], (event.clientY - box.top) / ds.scale - ds.offset[1]]);
}

const onDragOver = (event) => event.dataTransfer?.types.includes(DRAGGED) && event.preventDefault();

// --- the tab ----------------------------------------------------------------------------------------------------------

function draw(card) {
  const blank = () => make("span", { class: "blank" }, card.foreign ? say("LoRA of others") : say("no picture yet"));
  const picture = card.picture
    ? make("img", { src: app.api.apiURL(`/erase_plugins/picture?name=${encodeURIComponent(card.name)}`), alt: "", loading: "lazy",
        draggable: "false", error: (event) => event.target.replaceWith(blank()) })
    : blank();
  const rows = card.rows.join(", ") || card.title;
  const more = [badge(card.place), card.base || card.family, card.collection].filter(Boolean).join(" · ");
  return make("button", {
    type: "button", class: "card", draggable: "true", title: `${card.name}\n${rows}\n${card.base}`, "data-name": card.name,
    click: () => add(card).catch((error) => tell("error", card.title, error.message)),
    dragstart: (event) => event.dataTransfer.setData(DRAGGED, JSON.stringify(card)),
  }, picture, make("span", { class: "facts" }, make("span", { class: "rows" }, rows), make("span", { class: "more" }, more)));
}

function tab(element) {
  let cards = [], asked = 0, pause;
  const options = (list) => list.map(([value, text]) => make("option", { value }, text));
  const search = make("input", { type: "search", placeholder: say("Search concepts and names"), "aria-label": say("Search") });
  const place = make("select", { "aria-label": say("Where") }, ...options(places()));
  const base = make("select", { "aria-label": say("Base model") }, ...options([["", say("Any base")]]));
  const others = make("input", { type: "checkbox" });
  const said = make("div", { class: "said", role: "status" }), grid = make("div", { class: "cards" });

  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (card) => words.every((word) => `${card.name} ${card.rows.join(" ")} ${card.base}`.toLowerCase().includes(word));
    const here = (card) => (!place.value || card.place === place.value) && (!base.value || (card.family || "unknown") === base.value);
    const found = cards.filter((card) => here(card) && fits(card));
    grid.replaceChildren(...found.slice(0, FEW).map(draw));
    const count = found.length > FEW ? say("%s found, the first %s are shown.", found.length, FEW) : say("%s found.", found.length);
    said.textContent = found.length
      ? `${count} ${say("Click: into the Erase node. Drag: a node that loads it.")}`
      : say("Nothing found. Save an erasure with 'Erase: save artifact', or look on the Hub.");
  };
  const fetchCards = async () => {
    const number = ++asked;
    said.textContent = say("Looking …");
    try {
      // the Hub hears of nothing before it is chosen
      const got = await ask(place.value === "hub" ? { hub: 1, query: search.value } : others.checked ? { loras: 1 } : {});
      if (number !== asked) return;
      cards = got;
    } catch (error) {
      if (number !== asked) return;
      cards = [];
      grid.replaceChildren();
      said.textContent = error.message;
      return;
    }
    const kept = base.value, families = [...new Set(cards.map((card) => card.family || "unknown"))].sort();
    base.replaceChildren(...options([["", say("Any base")], ...families.map((name) => [name, name])]));
    base.value = families.includes(kept) ? kept : "";
    show();
  };
  search.addEventListener("input", () => {
    if (place.value !== "hub") return show();
    clearTimeout(pause);
    pause = setTimeout(fetchCards, 500);
  });
  place.addEventListener("change", fetchCards);
  others.addEventListener("change", fetchCards);
  base.addEventListener("change", show);
  element.replaceChildren(make("div", { class: "erase-library" }, make("style", {}, STYLE), search,
    make("div", { class: "bar" }, place, base), make("label", { class: "said" }, others, ` ${say("LoRAs of others, too")}`), said, grid));
  fetchCards();
}

app.registerExtension({
  name: "ErasePlugins.Library",
  setup() {
    window.addEventListener("drop", onDrop, { capture: true });
    window.addEventListener("dragover", onDragOver, { capture: true });
    loaded.then(() => app.extensionManager?.registerSidebarTab?.({
      id: "erase-library", icon: "pi pi-book", title: say("Erase library"), tooltip: say("Erase library"), type: "custom", render: tab,
    }));
  },
});
