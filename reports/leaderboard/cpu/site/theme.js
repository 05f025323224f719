// The theme: the system's unless the reader chose one, which is kept where the browser allows it.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  let stored = null;
  try { stored = window.localStorage.getItem("leaderboard-theme"); } catch (error) { stored = null; }  // may be refused on file://
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : media.matches);
  const say = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { window.localStorage.setItem("leaderboard-theme", root.dataset.theme); } catch (error) { stored = null; }
    say();
  });
  media.addEventListener("change", say);
  say();
})();
