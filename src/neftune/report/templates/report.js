"use strict";
// Figures, navigation and copy buttons. Figures are data; colours follow the page's own (light, dark, print).
(() => {
  const figures = JSON.parse(document.getElementById("figures-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const config = { displaylogo: false, responsive: true, displayModeBar: false, scrollZoom: false };
  const drawn = new Set();

  function recoloured(value, colours) {
    if (typeof value === "string") return colours[value] || value;
    if (Array.isArray(value)) return value.map((item) => recoloured(item, colours));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, recoloured(item, colours)]));
    return value;
  }

  function themed(figure, printing) {
    const style = getComputedStyle(document.documentElement);
    const isDark = dark.matches && !printing;
    const colour = (name, onPaper) => (printing ? onPaper : style.getPropertyValue(name).trim());
    const copy = recoloured(figure, isDark ? figures.dark : {});
    const ink = colour("--ink", "#000000"), soft = colour("--soft", "#444444"), grid = colour("--grid", "#dddddd");
    copy.layout.font = { ...copy.layout.font, color: soft };
    copy.layout.paper_bgcolor = copy.layout.plot_bgcolor = "rgba(0,0,0,0)";
    copy.layout.hoverlabel = { bgcolor: colour("--panel", "#ffffff"), font: { color: ink }, bordercolor: soft };
    for (const [name, axis] of Object.entries(copy.layout))
      if (/^[xy]axis/.test(name)) Object.assign(axis, { gridcolor: grid, linecolor: soft, zerolinecolor: soft });
    return copy;
  }

  function draw(element, printing = false) {
    const figure = themed(figures.panels[element.id], printing);
    if (printing) figure.layout.width = element.closest(".single") ? 640 : 320;
    drawn.add(element);
    return Plotly.react(element, figure.data, figure.layout, config);
  }

  const plots = [...document.querySelectorAll(".plot")];
  function drawAll(printing) {
    for (const element of plots) draw(element, printing);
  }
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries)
      if (isIntersecting && !drawn.has(target)) draw(target);
  }, { rootMargin: "600px" });
  plots.forEach((element) => seen.observe(element));
  dark.addEventListener("change", () => drawn.forEach((element) => draw(element)));
  paper.addEventListener("change", (event) => drawAll(event.matches));
  const folded = [...document.querySelectorAll("details:not([open])")];
  const unfold = (open) => folded.forEach((element) => { element.open = open; });
  addEventListener("beforeprint", () => { unfold(true); drawAll(true); });
  addEventListener("afterprint", () => { unfold(false); drawAll(false); });

  const links = new Map([...document.querySelectorAll("nav.sections a")].map((link) => [link.hash.slice(1), link]));
  const spy = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      const link = links.get(target.id);
      if (!link) continue;
      if (isIntersecting) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  document.querySelectorAll("section[id]").forEach((section) => spy.observe(section));

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.source);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);
        button.textContent = "Selected";
      }
    });
  }
  document.querySelectorAll("[data-dot]").forEach((element) => {
    const [light, night] = element.dataset.dot.split(",");
    const paint = (printing) => element.style.setProperty("--dot", dark.matches && !printing ? night : light);
    paint(false);
    dark.addEventListener("change", () => paint(false));
    addEventListener("beforeprint", () => paint(true));
    addEventListener("afterprint", () => paint(false));
  });
})();
