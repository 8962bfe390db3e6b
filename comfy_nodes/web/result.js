// What the Erase node found is written on it: how much of each concept is left, and what was done.
// Without this file the same text leaves by the output "report".
import { app } from "../../scripts/app.js";
import { kindOf } from "./erase.js";

const KIND = "EraseNegative";
const KEPT = "erase_report"; // a property, so that it is there again after a reload
const HEIGHT = 110;

function addReport(node) {
  if (typeof node.addDOMWidget !== "function") return;
  const box = document.createElement("div");
  box.className = "erase-report";
  box.style.cssText = "white-space:pre-wrap;overflow:auto;font-size:11px;line-height:1.35;user-select:text";
  const show = () => {
    box.textContent = String(node.properties[KEPT] ?? "Run the graph to see how much of each concept is left.");
  };
  const widget = node.addDOMWidget(KEPT, KEPT, box, {
    serialize: false,
    hideOnZoom: true,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false; // values of saved workflows are found by place
  const { onExecuted, onConfigure } = node;
  node.onExecuted = function (output, ...more) {
    onExecuted?.call(this, output, ...more);
    if (output?.text) node.properties[KEPT] = output.text.join("\n");
    show();
  };
  node.onConfigure = function (...more) {
    onConfigure?.apply(this, more);
    show();
  };
  show();
}

app.registerExtension({
  name: "ErasePlugins.Result",
  nodeCreated(node) {
    if (kindOf(node) !== KIND) return;
    // the Python side says so too, which classic nodes do not read
    for (const widget of node.widgets ?? []) if (widget.options?.advanced) widget.advanced = true;
    addReport(node);
  },
});
