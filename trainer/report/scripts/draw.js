// Draws each specification into the box that names it. `ast` walks expressions instead of compiling them, so that the
// page's policy need not allow code made from strings.
(async () => {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const options = {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, config: read("chart-config"),
  };
  const draw = async box => {
    try {
      await vegaEmbed(box, read(box.dataset.spec), options);
    } catch (error) {
      box.textContent = "This chart could not be drawn: " + error.message;
      console.error(error);
    }
  };
  await Promise.all(Array.from(document.querySelectorAll("[data-spec]"), draw));
  document.documentElement.dataset.charts = "drawn";
})();
