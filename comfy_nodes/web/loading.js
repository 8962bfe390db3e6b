// What is loaded, pasted or undone: values of older workflows go where they belong, and nothing comes with "publish" on.
// The editor fills in saved values by their place, so this has to look at them first.
import { app } from "../../scripts/app.js";
import { kindOf } from "./parts.js";

// what the editor did with a seed after a run was a value behind the seed; our seeds stay as they are now
const PUBLISHERS = new Set(["EraseHubPush"]);
const SEEDS = new Set(["seed", "noise_seed"]);
const AFTER_RUN = new Set(["fixed", "increment", "decrement", "randomize"]);

/** The place of a widget among the saved values of a node; -1 if it has none. */
function placeOf(node, wanted) {
  return (node.widgets ?? []).filter((widget) => widget.serialize !== false).findIndex((widget) => wanted(widget.name));
}

/** The saved values of a node without the one that no longer has a widget. */
function withoutControl(node, values) {
  const seed = placeOf(node, (name) => SEEDS.has(name));
  return seed >= 0 && AFTER_RUN.has(values[seed + 1]) ? values.filter((_, index) => index !== seed + 1) : values;
}

/** The saved values of a node with "publish" off: files come from strangers, the login is that of this person. */
function withoutPublish(node, values) {
  const place = PUBLISHERS.has(kindOf(node)) ? placeOf(node, (name) => name === "publish") : -1;
  return values.map((value, index) => (index === place ? false : value));
}

/** Looks at what is loaded, pasted or undone before the editor does, which fills in values by their place. */
function watchLoading(node) {
  const { configure } = node;
  node.configure = function (saved, ...more) {
    const values = saved?.widgets_values;
    if (!Array.isArray(values)) return configure.call(this, saved, ...more);
    return configure.call(this, { ...saved, widgets_values: withoutPublish(node, withoutControl(node, values)) }, ...more);
  };
}

app.registerExtension({
  name: "ErasePlugins.Loading",
  nodeCreated(node) {
    if (kindOf(node).startsWith("Erase")) watchLoading(node);
  },
});
