// A button beside each command that copies it, where the browser allows that.
(() => {
  if (!navigator.clipboard) return;
  for (const box of document.querySelectorAll(".command pre")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(box.textContent.trim());
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(box);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    box.after(button);
  }
})();
