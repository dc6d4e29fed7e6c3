"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const figures = JSON.parse(document.getElementById("figure-data").textContent);
  const config = { responsive: true, displayModeBar: false };

  // Figures name their colours as CSS variables; Plotly wants values.
  const resolve = (value, style) => {
    if (typeof value === "string") {
      return value.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    }
    if (Array.isArray(value)) return value.map((item) => resolve(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, style)]));
    }
    return value;
  };
  const narrow = window.matchMedia("(max-width: 760px)");
  const draw = () => {
    const style = getComputedStyle(root);
    for (const [id, figure] of Object.entries(figures)) {
      const { data, layout } = resolve(figure, style);
      if (narrow.matches) {
        layout.font.size = 11;
        layout.dragmode = false;  // a finger on a figure scrolls the page
      }
      // Plotly measures again a moment later, when the page is printed already.
      if ("printing" in root.dataset) layout.width = document.getElementById(id).clientWidth;
      Plotly.react(id, data, layout, config);
    }
    root.dataset.drawn = Object.keys(figures).length;
  };
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  const closed = [];
  window.addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    root.dataset.printing = "";  // figures take the paper's width before they are drawn for it
    for (const part of document.querySelectorAll("details:not([open])")) { closed.push(part); part.open = true; }
    draw();
  });
  window.addEventListener("afterprint", () => {
    delete root.dataset.theme;
    delete root.dataset.printing;
    while (closed.length) closed.pop().open = false;
    draw();
  });

  const slider = document.getElementById("depth");
  if (!slider) return;
  const stops = [...document.querySelectorAll(".stop")];
  const depths = [...new Set(stops.map((stop) => Number(stop.dataset.depth)))].sort((a, b) => a - b);
  const stages = [...document.querySelectorAll("input[name=stage]")];
  const ticks = [...document.querySelectorAll(".ticks span")];
  const wanted = () => (stages.find((stage) => stage.checked) || { value: "healed" }).value;

  const show = (depth, stage, remember) => {
    const here = stops.filter((stop) => Number(stop.dataset.depth) === depth);
    const chosen = here.find((stop) => stop.dataset.stage === stage) || here[here.length - 1];
    for (const stop of stops) stop.hidden = stop !== chosen;
    for (const option of stages) {
      option.disabled = !here.some((stop) => stop.dataset.stage === option.value);
    }
    for (const tick of ticks) tick.classList.toggle("now", Number(tick.textContent) === depth);
    slider.value = depths.indexOf(depth);
    slider.setAttribute("aria-valuetext", chosen.dataset.name);
    if (remember) history.replaceState(null, "", `#depth=${depth}&stage=${chosen.dataset.stage}`);
  };
  const follow = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const depth = Number(asked.get("depth"));
    const stage = asked.get("stage") || slider.dataset.stage;
    for (const option of stages) option.checked = option.value === stage;
    if (!stages.some((option) => option.checked) && stages.length) stages[stages.length - 1].checked = true;
    show(depths.includes(depth) ? depth : Number(slider.dataset.depth), stage, false);
  };
  slider.addEventListener("input", () => show(depths[slider.value], wanted(), true));
  for (const option of stages) option.addEventListener("change", () => show(depths[slider.value], wanted(), true));
  window.addEventListener("hashchange", follow);
  follow();
})();
