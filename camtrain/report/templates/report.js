(() => {
  const section = document.getElementById("failures");
  const cases = [...section.querySelectorAll(".case")];
  const bar = section.querySelector(".filters");
  const selects = [...bar.querySelectorAll("select")];
  const reset = document.getElementById("reset");
  let pair = null;
  const show = () => {
    const wanted = selects.filter((one) => one.value).map((one) => [one.dataset.filter, one.value]);
    let count = 0;
    for (const one of cases) {
      const fits = wanted.every(([name, value]) => one.dataset[name] === value)
        && (!pair || (one.dataset.class === pair[0] && one.dataset.said === pair[1]));
      one.hidden = !fits;
      count += fits;
    }
    document.getElementById("shown").textContent = `${count} of ${cases.length}`;
    reset.hidden = !pair && !wanted.length;
    reset.textContent = pair ? `${pair[0]} taken for ${pair[1]} ✕` : "all ✕";
  };
  for (const one of selects) one.addEventListener("change", show);
  reset.addEventListener("click", () => {
    pair = null;
    for (const one of selects) one.value = "";
    show();
  });
  for (const button of document.querySelectorAll(".matrix button:not(:disabled)")) {
    button.addEventListener("click", () => {
      pair = [button.dataset.true, button.dataset.said];
      for (const one of selects) one.value = "";
      show();
      section.scrollIntoView({ behavior: "auto" });
    });
  }
  for (const one of selects) if (one.dataset.filter === "when") one.value = "now";
  bar.hidden = false;
  show();
})();
