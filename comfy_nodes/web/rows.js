// The concepts of the Erase node as rows: a switch, the concept, what it becomes, how strongly, and how much is left of it.
// The value stays the text that the node reads, one concept a line: "# pizza -> cake : 0.8" is a row that is off.
import { app } from "../../scripts/app.js";
import { fit, kindOf, make, replaceBox } from "./parts.js";
import { say, whenTranslated } from "./texts.js";

export const KIND = "EraseNegative";
const LEFT = "erase_left"; // a property: line -> share that is left
const ROW = 28, FOOT = 28, MOST = 8;
const ARROW = /^((?:"[^"]*"|“[^”]*”|„[^“]*“|«[^»]*»|[^"“„«])*?)\s*(?:[-–—]+>|=+>|[→⇒⟶⟹➔➜➡])\s*(.*)$/;
const COMMENT = /(?:^|\s)#/;
const STRENGTH = /^(.*\S)\s*:\s*(-?(?:\d+\.?\d*|\.\d+))$/;

/** The parts of a line. */
export function readLine(line) {
  const off = /^\s*#/.test(line);
  const [words, ...notes] = line.replace(/^[\s#]*/, "").split(/\s#/); // the # of "C#" is its own
  let rest = words.trim(), strength = 1;
  const number = rest.match(STRENGTH);
  if (number) [rest, strength] = [number[1], Number(number[2])];
  const sides = rest.match(ARROW);
  return { off, concept: (sides ? sides[1] : rest).trim(), guide: sides ? sides[2] : "", strength, note: notes.join(" #").trim() };
}

/** The line of its parts. */
export function writeLine({ off, concept, guide, strength, note }) {
  const words = `${concept}${guide ? ` -> ${guide}` : ""}${strength === 1 ? "" : ` : ${strength}`}`;
  return `${off && words ? "# " : ""}${words}${note ? `  # ${note}` : ""}`;
}

function addRows(node) {
  const panel = make("div", { class: "erase-panel erase-rows" });
  const own = {}; // the widget, once it is made
  let lines = [""], asText = false;

  const height = () => Math.min(Math.max(asText ? 4 : lines.length, 1), MOST) * ROW + FOOT;
  const changed = () => {
    own.widget?.callback?.(own.widget.value);
    app.graph?.setDirtyCanvas?.(true, false);
  };

  /** Takes a row as its boxes are now; the row stays where it is, and with it the box that is typed in. */
  const edit = (index, element, { off = readLine(lines[index]).off } = {}) => {
    const [concept, guide, strength] = [...element.querySelectorAll("input")].map((box) => box.value.trim());
    const { note } = readLine(lines[index]);
    // a whole line may be typed into the first box
    if (COMMENT.test(concept) || ARROW.test(concept) || STRENGTH.test(concept)) lines[index] = `${off ? "# " : ""}${concept}`;
    else lines[index] = writeLine({ off, concept, guide, strength: strength === "" ? 1 : Number(strength), note });
    mark(element.querySelector(".left"), lines[index]);
    changed();
  };
  const rowOf = (event) => event.target.closest(".erase-row");

  /** Takes apart what was typed or pasted into one box as a whole line, or as several; else the boxes stay as they are. */
  const settle = (index, text) => {
    const whole = /\n/.test(text) || COMMENT.test(text) || ARROW.test(text.trim()) || STRENGTH.test(text.trim());
    if (/\n/.test(text)) lines.splice(index, 1, ...text.split(/\r?\n/).filter((line) => line.trim()));
    if (!whole) return;
    changed();
    draw();
  };

  /** How much is left of a row, as long as it is as it was when the graph ran. */
  const mark = (badge, line) => {
    const left = node.properties[LEFT]?.[line];
    badge.className = `left ${left === undefined ? "" : left < 0.05 ? "gone" : left < 0.3 ? "half" : "back"}`;
    badge.title = left === undefined ? say("run the graph to see how much is left") : say("how much is left");
    badge.textContent = left === undefined ? "" : `${(100 * left).toFixed(left < 0.1 ? 1 : 0)} %`;
    return badge;
  };

  function row(line, index) {
    const { off, concept, guide, strength } = readLine(line);
    const field = (value, hint, label) =>
      make("input", {
        type: "text", value, placeholder: hint, "aria-label": label, spellcheck: "false",
        on: {
          input: (event) => edit(index, rowOf(event)),
          change: (event) => settle(index, event.target.value),
          paste: (event) => {
            const text = event.clipboardData?.getData("text") ?? "";
            if (!/\n/.test(text.trim())) return;
            event.preventDefault();
            settle(index, text);
          },
          keydown: (event) => {
            if (event.key === "Enter") add();
          },
        },
      });
    return make(
      "div", { class: `erase-row${off ? " off" : ""}` },
      make("button", {
        type: "button", class: "switch", role: "switch", "aria-checked": String(!off), "aria-label": say("erase this concept"),
        title: off ? say("off: click to erase it") : say("erased: click to switch it off"),
        on: { click: (event) => { edit(index, rowOf(event), { off: !off }); draw(); } },
      }),
      field(concept, say("what to erase"), say("concept")),
      make("span", { class: "arrow" }, "→"),
      field(guide, say("automatic"), say("what it becomes")),
      make("input", {
        type: "number", class: "strength", value: strength, min: -2, max: 2, step: 0.05, "aria-label": say("strength"),
        title: say("1 erases, 0 leaves it, below 0 strengthens it"),
        on: {
          input: (event) => edit(index, rowOf(event)),
        },
      }),
      mark(make("span"), line),
      make("button", {
        type: "button", class: "remove", "aria-label": say("remove the row"), title: say("remove the row"),
        on: { click: () => { lines.splice(index, 1); if (!lines.length) lines = [""]; changed(); draw(); } },
      }, "×"),
    );
  }

  function add() {
    if (lines.at(-1).trim()) lines.push("");
    changed();
    draw();
    [...panel.querySelectorAll(".erase-row")].at(-1)?.querySelector("input")?.focus();
  }

  function draw() {
    const foot = make(
      "div", { class: "foot" },
      ...(asText ? [] : [make("button", { type: "button", class: "add", on: { click: add } }, say("+ concept"))]),
      make("button", {
        type: "button", class: "end as-text", on: { click: () => { asText = !asText; draw(); } },
      }, asText ? say("as rows") : say("as text")),
    );
    if (asText) {
      const box = make("textarea", { spellcheck: "false", "aria-label": say("one concept a line") });
      box.value = lines.join("\n");
      box.addEventListener("input", () => { lines = box.value.split("\n"); changed(); });
      panel.replaceChildren(box, foot);
    } else panel.replaceChildren(...lines.map(row), foot);
    panel.style.minHeight = panel.style.maxHeight = `${height()}px`;
    if (own.widget) fit(node);
  }

  own.widget = replaceBox(node, "erase", panel, {
    height, get: () => lines.join("\n"),
    set: (text) => {
      if (own.widget && String(text) === lines.join("\n")) return;
      lines = String(text ?? "").split("\n");
      draw();
    },
  });
  if (!own.widget) return;
  const { onExecuted } = node;
  node.onExecuted = function (output, ...more) {
    onExecuted?.call(this, output, ...more);
    const found = output?.erase_left;
    if (!found) return;
    const shares = new Map(found.map(({ concept, left }) => [concept.toLowerCase(), left]));
    const named = (line) => readLine(line).concept.replace(/^["“„«]|["”“»]$/g, "").toLowerCase();
    const seen = lines.filter((line) => !readLine(line).off && shares.has(named(line)));
    node.properties[LEFT] = Object.fromEntries(seen.map((line) => [line, shares.get(named(line))]));
    draw();
  };
  whenTranslated(draw);
}

app.registerExtension({
  name: "ErasePlugins.Rows",
  nodeCreated(node) {
    if (kindOf(node) !== KIND) return;
    addRows(node);
    node.setSize?.([Math.max(node.size[0], 420), node.size[1]]);
  },
});
