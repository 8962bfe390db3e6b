// Options of the chosen method, as fields that come and go with it. Rare ones are folded away.
// The value stays the text that the node reads, "name = value" a line: one form for every core and renderer, so a
// workflow does not depend on the core that saved it.
import { app } from "../../scripts/app.js";
import { fit, kindOf, make, replaceBox, widgetOf } from "./parts.js";
import { KIND } from "./rows.js";
import { say, whenTranslated } from "./texts.js";

const ROW = 28, FOLD = 26, OPEN = 190, HEAD = 20; // as high as the style makes them
let methods, titles = {}; // id -> options, id -> title and whether it trains; asked for once

async function ask() {
  const answer = await app.api.fetchApi("/erase_plugins/methods");
  if (!answer.ok) return {};
  const found = await answer.json();
  titles = found.titles ?? {};
  return found.methods;
}

function read(text) {
  const pairs = String(text ?? "").split("\n").map((line) => line.split(/(?:^|\s)#/)[0]).filter((line) => line.trim());
  return new Map(pairs.map((line) => {
    const place = line.indexOf("=");
    return place < 0 ? [line.trim(), ""] : [line.slice(0, place).trim(), line.slice(place + 1).trim()];
  }));
}

const write = (values) => [...values].map(([name, value]) => (value === "" ? name : `${name} = ${value}`)).join("\n");

const SPOKEN = { true: () => say("yes"), false: () => say("no") };
const spoken = (value) => SPOKEN[value]?.() ?? value;

function field(option, value, changed) {
  const standard = option.default === "" ? say("automatic") : spoken(option.default);
  if (option.choices.length) {
    const box = make("select", { "aria-label": say(option.label), "data-name": option.name, on: { change: () => changed(box.value) } },
      make("option", { value: "" }, say("as tested: %s", standard)),
      ...option.choices.map((choice) => make("option", { value: choice, selected: choice === value }, spoken(choice))));
    return box;
  }
  const limits = option.number ? { type: "number", min: option.low, max: option.high, step: option.whole ? 1 : "any" } : { type: "text" };
  const box = make("input", {
    ...limits, value, placeholder: standard, spellcheck: "false", "aria-label": say(option.label), "data-name": option.name,
    on: { input: () => changed(box.value.trim()) },
  });
  return box;
}

function addForm(node) {
  const method = widgetOf(node, "method");
  const panel = make("div", { class: "erase-panel erase-options" });
  const own = {}; // the widget, once it is made
  const kept = new Map(); // method -> its values, so that switching back and forth loses nothing
  let values = new Map(), shown = "", open = false, rows = 0, folded = 0;

  const id = () => String(method?.value ?? "").split(":")[0].trim();
  const height = () => Math.max((titles[id()] ? HEAD : 0) + rows * ROW + (folded ? FOLD + (open ? OPEN : 0) : 0), FOLD);

  function line(option) {
    const row = make("div", { class: `erase-option${values.has(option.name) ? " set" : ""}`, title: `${option.name}: ${option.help}` },
      make("label", {}, say(option.label)),
      field(option, values.get(option.name) ?? "", (value) => {
        if (value === "") values.delete(option.name);
        else values.set(option.name, value);
        row.classList.toggle("set", value !== "");
        own.widget.callback?.(own.widget.value);
      }));
    return row;
  }

  /** The whole name of the method, which the list above cuts in a narrow node, and how long it takes. */
  function head() {
    const found = titles[id()];
    if (!found) return [];
    const [short, long] = found.searches ? [say("searches"), say("searches for as many minutes as are given")]
      : found.trains ? [say("trains"), say("trains, which takes minutes to hours")] : [say("in seconds"), say("solves in seconds")];
    return [make("div", { class: "erase-method", title: `${found.title}: ${long}` }, `${found.title} · ${short}`)];
  }

  function strange(name) {
    return make("div", { class: "erase-option set" }, make("label", { title: say("this method has no such option") }, `? ${name}`),
      make("button", { type: "button", on: { click: () => { values.delete(name); draw(); } } }, say("remove")));
  }

  function draw() {
    const options = methods?.[id()] ?? [];
    const known = new Set(options.map((option) => option.name));
    const [main, rare] = [options.filter((option) => option.main), options.filter((option) => !option.main)];
    const unknown = methods ? [...values.keys()].filter((name) => !known.has(name)) : [];
    [rows, folded] = [main.length + unknown.length, rare.length];
    const fold = make("details", { open, on: { toggle: () => {
      if (open === fold.open) return;
      open = fold.open;
      size();
    } } }, make("summary", {}, say("%s rare options", rare.length)), ...rare.map(line));
    panel.replaceChildren(...head(), ...unknown.map(strange), ...main.map(line), ...(rare.length ? [fold] : []));
    size();
  }

  function size() {
    panel.style.minHeight = panel.style.maxHeight = `${height()}px`;
    if (own.widget) fit(node);
  }

  /** Values of another method are put away, those of this one come back. */
  function follow() {
    if (id() === shown) return;
    if (shown) kept.set(shown, values);
    shown = id();
    const options = new Set((methods?.[shown] ?? []).map((option) => option.name));
    values = kept.get(shown) ?? new Map([...values].filter(([name]) => options.has(name)));
    draw();
  }

  own.widget = replaceBox(node, "options", panel, {
    height, get: () => write(values),
    set: (text) => {
      values = read(text);
      shown = id();
      draw();
    },
  });
  if (!own.widget || !method) return;
  const { callback } = method;
  method.callback = function (...given) {
    callback?.apply(this, given);
    follow();
  };
  methods ??= ask().catch(() => ({}));
  Promise.resolve(methods).then((found) => {
    methods = found;
    shown = id();
    whenTranslated(draw);
  });
}

app.registerExtension({
  name: "ErasePlugins.Options",
  nodeCreated(node) {
    if (kindOf(node) === KIND) addForm(node);
  },
});
