// Contents that stay open beside the page on a wide screen and fold away on a narrow one, where a link closes them. The
// link of the section that is read is marked. Without this script they are open, and scroll away.
(() => {
  const contents = document.querySelector("nav details");
  if (!contents) return;
  const wide = matchMedia("(min-width: 75rem)"), links = Array.from(contents.querySelectorAll("a"));
  const fit = () => { contents.open = wide.matches; };
  wide.addEventListener("change", fit);
  fit();
  document.documentElement.dataset.contents = "fitted";
  contents.addEventListener("click", event => {
    if (event.target.closest("a") && !wide.matches) contents.open = false;
  });
  const headings = links.map(link => document.getElementById(link.hash.slice(1)));
  const mark = () => {
    const passed = headings.filter(heading => heading.getBoundingClientRect().top < innerHeight / 3).length;
    links.forEach((link, number) => {
      if (number === passed - 1) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
