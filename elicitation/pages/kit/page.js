"use strict";
(async () => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 700px)");
  const inks = JSON.parse(document.getElementById("dark-inks").textContent);
  const config = { displayModeBar: false, responsive: true, typesetMath: false, doubleClick: false, showTips: false };
  const PRINTED_WIDTH = 690;
  const PRINTED_HEIGHT = 860;

  const unpacked = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };

  const swapped = (ink, night) => (night && inks[ink]) || ink;

  const themed = (value, night, key = "") => {
    if (Array.isArray(value)) return value.map((item) => themed(item, night, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, themed(item, night, name)]));
    }
    return typeof value === "string" && key.toLowerCase().endsWith("color") ? swapped(value, night) : value;
  };

  const inked = (night) => {
    for (const item of document.querySelectorAll("[data-ink]")) item.style.color = swapped(item.dataset.ink, night);
  };

  const drawn = (plot, shapes, printing) => {
    const { data, layout } = themed(shapes[narrow.matches && !printing ? "narrow" : "wide"], dark.matches && !printing);
    const scale = printing ? Math.min(1, PRINTED_HEIGHT / layout.height) : 1;
    if (printing) layout.width = PRINTED_WIDTH / scale;
    plot.style.zoom = scale;
    Plotly.react(plot, data, layout, config);
  };

  const unfolded = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let fold = place?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    place?.scrollIntoView();
  };
  addEventListener("hashchange", unfolded);
  unfolded();

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details.numbers:not([open]), details.how:not([open])")];
    for (const fold of folded) fold.open = true;
    inked(false);
  });
  addEventListener("afterprint", () => {
    for (const fold of folded) fold.open = false;
    inked(dark.matches);
  });
  dark.addEventListener("change", () => inked(dark.matches));
  inked(dark.matches);

  const plots = [...document.querySelectorAll(".plot")];
  if (!plots.length) return;

  // A pending image holds back the load event, for which whoever prints or photographs the page waits.
  let waiting = true;
  let n_images = 0;
  const hold = () => {
    const image = new Image();
    image.onload = image.onerror = () => waiting && hold();
    image.src = `data:image/gif;base64,R0lGODlhAQABAAAAACw=#${(n_images += 1)}`;
  };
  hold();

  try {
    const [source, ...figures] = await Promise.all(["plotly", ...plots.map(({ id }) => `${id}-data`)].map(unpacked));
    const library = document.createElement("script");
    library.textContent = source;
    document.head.append(library);
    const shapes = figures.map((text) => JSON.parse(text));
    const draw = (printing) => plots.forEach((plot, place) => drawn(plot, shapes[place], printing));
    for (const media of [dark, narrow]) media.addEventListener("change", () => draw(false));
    addEventListener("beforeprint", () => draw(true));
    addEventListener("afterprint", () => draw(false));
    draw(false);
  } catch (fault) {
    document.body.classList.add("undrawn");
    throw fault;
  } finally {
    waiting = false;
    performance.mark("drawn");
  }
})();
