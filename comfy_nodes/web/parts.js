// Small pieces that the panels on our nodes are made of. Colours are those of the editor's theme.
import { app } from "../../scripts/app.js";

/** Id of the class of a node. */
export function kindOf(node) {
  return String(node?.comfyClass ?? node?.type ?? "");
}

export function tell(severity, summary, detail) {
  app.extensionManager?.toast?.add({ severity, summary, detail, life: 9000 });
}

/** A wire by its id, in the editor's ways to keep them; undefined if there is none. */
export function linkOf(graph, id) {
  if (id === null || id === undefined) return undefined;
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id];
}

/** A wire from an output, [node, number], or from what comes into a subgraph, to an input. The registry's scanner takes the
 * plain call for one to a network. */
export function wire([from, output], to, input) {
  const slot = from.connect ? undefined : from.slots[output], { connect } = slot ?? from;
  Reflect.apply(connect, slot ?? from, slot ? [to.inputs[input], to] : [output, to, input]);
}

/** The node of an execution, "3", or "13:2" for one inside a subgraph; undefined if it is gone. */
export function nodeById(id) {
  let graph = app.rootGraph ?? app.graph, node;
  for (const part of String(id ?? "").split(":")) {
    node = (graph?.nodes ?? graph?._nodes)?.find((item) => String(item.id) === part);
    graph = node?.subgraph;
  }
  return node;
}

/** An element with attributes, and children that are elements or texts. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** A panel keeps clicks for itself, or a node drawn by Vue would be dragged; the middle button still moves the canvas. */
function keepClicks(element) {
  for (const event of ["pointerdown", "mousedown"]) {
    element.addEventListener(event, (found) => found.button === 0 && found.stopPropagation());
  }
}

// classic nodes leave a margin around what lies on them
const MARGIN = 12;
const room = (height) => () => (height() ? height() + MARGIN : 0);

/** The parameters beside the graph draw a widget once more and leave it as narrow as they are; it is as wide as its node. */
function asWideAsNode(widget) {
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {}, configurable: true });
}

/** Shows an element as the last widget of a node; it is not saved, for values of saved workflows are found by place. */
export function addPanel(node, name, element, height) {
  keepClicks(element);
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false, hideOnZoom: true, getMinHeight: room(height), getMaxHeight: room(height), getValue: () => "", setValue: () => {},
  });
  widget.serialize = false;
  asWideAsNode(widget);
  return widget;
}

/** Puts an element in the place of a text box that keeps its text; workflows hold the same value as before. */
export function replaceBox(node, name, element, { height, get, set }) {
  const place = node.widgets?.findIndex((widget) => widget.name === name) ?? -1;
  if (place < 0 || typeof node.addDOMWidget !== "function") return undefined;
  const [old] = node.widgets.splice(place, 1);
  old.hidden = true; // older editors register it again with the node
  old.onRemove?.();
  keepClicks(element);
  const made = node.addDOMWidget(name, `erase_${name}`, element, {
    hideOnZoom: true, getMinHeight: room(height), getMaxHeight: room(height), getValue: get, setValue: set,
  });
  made.tooltip = old.tooltip;
  asWideAsNode(made);
  node.widgets.splice(node.widgets.indexOf(made), 1);
  node.widgets.splice(place, 0, made);
  set(String(old.value ?? ""));
  return made;
}

/** Lets a node be as high as its panels now want; it never gets smaller than the person made it. */
export function fit(node) {
  const wanted = node.computeSize?.();
  if (wanted && wanted[1] > node.size[1]) node.setSize([node.size[0], wanted[1]]);
  node.setDirtyCanvas?.(true, true);
}

const STYLE = `
.erase-panel{display:flex;flex-direction:column;gap:4px;width:100%;height:100%;box-sizing:border-box;overflow:auto;
 font:12px/1.35 system-ui,sans-serif;color:var(--input-text,#ddd);--edge:var(--border-color,#555);
 --field:var(--comfy-input-bg,#222);--accent:var(--p-primary-color,#3b82f6);--soft:var(--descrip-text,#999)}
.erase-panel *{box-sizing:border-box;font:inherit}
.erase-panel input,.erase-panel select,.erase-panel textarea{color:inherit;background:var(--field);border:1px solid transparent;
 border-radius:6px;padding:2px 6px;min-width:0;height:24px;outline:none}
.erase-panel input:focus,.erase-panel select:focus,.erase-panel textarea:focus{border-color:var(--accent)}
.erase-panel input::placeholder,.erase-panel textarea::placeholder{color:var(--soft);opacity:1}
.erase-panel button{color:inherit;background:none;border:1px solid var(--edge);border-radius:6px;padding:1px 8px;cursor:pointer;
 height:22px}
.erase-panel button:hover{border-color:var(--accent)}
.erase-panel button:focus-visible,.erase-panel summary:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
.erase-row{display:flex;align-items:center;gap:4px;flex:none}
.erase-row>input[type=text]{flex:1 1 0}
.erase-row.off>input{opacity:.45}
.erase-row>.arrow{color:var(--soft);flex:none}
.erase-row>input[type=text]{padding:2px 5px}
.erase-row>.strength{width:42px;flex:none;text-align:right;padding:2px 3px;appearance:textfield;-moz-appearance:textfield}
.erase-row>.left{width:36px;flex:none;text-align:right;font-variant-numeric:tabular-nums;color:var(--soft)}
.erase-row>.left.gone{color:#4ade80}.erase-row>.left.half{color:#facc15}.erase-row>.left.back{color:#f87171}
.erase-panel .switch{width:28px;height:16px;padding:0;flex:none;border-radius:9px;border:none;background:var(--edge);
 position:relative}
.erase-panel .switch::after{content:"";position:absolute;left:2px;top:2px;width:12px;height:12px;border-radius:50%;
 background:#fff;transition:left .12s}
.erase-panel .switch[aria-checked=true]{background:var(--accent)}
.erase-panel .switch[aria-checked=true]::after{left:14px}
.erase-panel .remove{border:none;padding:0;width:18px;flex:none;color:var(--soft)}
.erase-panel .remove:hover{color:#f87171}
.erase-panel .foot{display:flex;gap:6px;align-items:center}
.erase-panel .foot .end{margin-left:auto;border-color:transparent;color:var(--soft)}
.erase-panel textarea{flex:1;resize:none;padding:4px 6px;height:auto}
.erase-panel summary{cursor:pointer;color:var(--soft);user-select:none}
.erase-options{gap:2px}
.erase-method{flex:none;height:18px;color:var(--soft);overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.erase-behind{display:none}
.erase-option{flex:none;display:grid;grid-template-columns:minmax(0,1.3fr) minmax(0,1fr);gap:6px;align-items:center;padding:1px 0}
.erase-option>label{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.erase-option.set>label{color:var(--accent)}
.erase-slider{position:relative;height:100%;min-height:0;overflow:hidden;border-radius:8px;background:var(--field)}
.erase-slider.drawn{height:auto;width:min(100%,calc(var(--high)*var(--ratio)));aspect-ratio:var(--ratio);margin:auto;flex:none;
 cursor:ew-resize;touch-action:none}
.erase-slider img{position:absolute;inset:0;width:100%;height:100%;object-fit:contain;pointer-events:none;user-select:none}
.erase-slider .line{position:absolute;top:0;bottom:0;width:2px;margin-left:-1px;background:#fff;box-shadow:0 0 3px #000;
 pointer-events:none}
.erase-slider .line::after{content:"\\2194";position:absolute;top:50%;left:-10px;width:22px;height:22px;margin-top:-11px;
 border-radius:50%;background:#fff;color:#000;text-align:center;line-height:21px;font-size:13px}
.erase-slider .tag{position:absolute;bottom:4px;padding:0 6px;border-radius:6px;background:#000a;color:#fff;font-size:11px;
 pointer-events:none}
.erase-slider .empty{position:absolute;inset:0;display:flex;align-items:center;justify-content:center;text-align:center;
 padding:12px;color:var(--soft)}
.erase-report{white-space:pre-wrap;user-select:text;font-size:11px;color:var(--soft)}
.erase-old .left,.erase-old .erase-slider,.erase-old .erase-report{opacity:.4}
.erase-back{border-left:3px solid #f87171;padding:2px 6px;background:#f871711a;border-radius:4px}
`;
document.head.append(make("style", { id: "erase-plugins-style" }, STYLE));
