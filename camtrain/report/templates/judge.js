(() => {
  const section = document.getElementById("judgement");
  const groups = [...document.querySelectorAll(".judge")];
  const marks = new Map();
  const key = (one) => JSON.stringify([one.dataset.class, one.dataset.cue]);
  const content = () => JSON.stringify({ judgements: [...marks].map(([name, judgement]) => {
    const [class_name, cue] = JSON.parse(name);
    return { class_name, cue, judgement };
  }) }, null, 2);
  const show = () => {
    for (const one of groups) for (const button of one.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(marks.get(key(one)) === button.dataset.judgement));
    }
    const count = (kind) => [...marks.values()].filter((one) => one === kind).length;
    section.querySelector("output").textContent = `${count("spurious")} spurious, ${count("fair")} fair.`;
    section.querySelector("pre").textContent = content();
    section.hidden = !marks.size;
  };
  for (const one of groups) {
    one.hidden = false;
    for (const button of one.querySelectorAll("button")) {
      if (button.getAttribute("aria-pressed") === "true") marks.set(key(one), button.dataset.judgement);
      button.addEventListener("click", () => {
        if (marks.get(key(one)) === button.dataset.judgement) marks.delete(key(one));
        else marks.set(key(one), button.dataset.judgement);
        show();
      });
    }
  }
  section.querySelector("[data-do=save]").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content()], { type: "application/json" }));
    link.download = "judgement.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  section.querySelector("[data-do=copy]").addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents(section.querySelector("pre"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  });
  show();
})();
