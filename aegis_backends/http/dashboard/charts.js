// Lines over the last minutes, drawn by hand: two charts need no library.

import { beforeFrame, make, write } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const SPAN = 5 * 60_000;
const HEIGHT = 132;
const LEFT = 54;
const BOTTOM = 18;
const TOP = 8;
const RIGHT = 8;
const STEPS = 3;

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** The least of 1, 2, 5, 10, ... times a power of ten that is not below `value`. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= value * 0.999_999);
}

export class Chart {
  #series;
  #format;
  #least;
  #svg;
  #empty;
  #values;
  #samples = [];
  #why = "";

  /**
   * `series` are names, `format` writes a value with its unit, `least` is the height of the scale where nothing happens.
   */
  constructor(section, { series, format, least }) {
    this.#series = series;
    this.#format = format;
    this.#least = least;
    this.#values = series.map(() => make("dd"));
    const legend = make(
      "dl",
      { class: "legend" },
      ...series.map((name, i) => make("div", { class: `series-${i}` }, make("dt", {}, name), this.#values[i])),
    );
    this.#svg = draw("svg", { class: "plot", role: "img", height: HEIGHT, "aria-labelledby": `${section.id}-title` });
    this.#empty = make("p", { class: "empty" });
    section.querySelector(".heading").append(legend);
    section.append(this.#svg, this.#empty);
    new ResizeObserver(() => this.#later()).observe(section);
  }

  /** Add one value of each series, or null where there is none, at a time in milliseconds. */
  add(at, values) {
    this.#samples.push({ at, values });
    while (this.#samples[0].at < at - SPAN) this.#samples.shift();
    this.#later();
  }

  /** Say why there is nothing to show. */
  explain(why) {
    this.#why = why;
    this.#later();
  }

  #later() {
    beforeFrame(this.#draw);
  }

  #draw = () => {
    const any = this.#samples.some(({ values }) => values.some((value) => value !== null));
    this.#empty.hidden = any;
    write(this.#empty, any ? "" : this.#why);
    const last = this.#samples.at(-1);
    this.#series.forEach((_, i) => {
      const value = last?.values[i] ?? null;
      write(this.#values[i], value === null ? "–" : this.#format(value));
    });
    const width = this.#svg.clientWidth;
    if (!any || width === 0) return this.#svg.replaceChildren();

    const highest = Math.max(this.#least, ...this.#samples.flatMap(({ values }) => values.map((value) => value ?? 0)));
    const step = roundUp(highest / STEPS);
    const top = step * Math.ceil((highest / step) * 0.999_999);
    const x = (at) => LEFT + (1 - (last.at - at) / SPAN) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const parts = [];
    for (let value = 0; value <= top + step / 2; value += step) {
      parts.push(draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      parts.push(draw("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, this.#format(value)));
    }
    for (const [minutes, anchor] of [[5, "start"], [2.5, "middle"], [0, "end"]]) {
      const told = minutes === 0 ? "now" : `−${minutes} min`;
      parts.push(draw("text", { x: x(last.at - minutes * 60_000), y: HEIGHT - 3, "text-anchor": anchor }, told));
    }
    this.#series.forEach((_, i) => parts.push(...this.#line(i, x, y)));
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#svg.replaceChildren(...parts);
  };

  #line(i, x, y) {
    let path = "";
    let pen = "M";
    let end = null;
    for (const { at, values } of this.#samples) {
      const value = values[i];
      if (value === null) {
        pen = "M";
        continue;
      }
      end = [x(at), y(value)];
      path += `${pen}${end[0].toFixed(1)} ${end[1].toFixed(1)}`;
      pen = "L";
    }
    if (end === null) return [];
    const dot = draw("circle", { class: `end series-${i}`, cx: end[0], cy: end[1], r: 3 });
    return [draw("path", { class: `stroke series-${i}`, d: path }), dot];
  }
}
