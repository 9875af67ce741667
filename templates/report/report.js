"use strict";
/* Filters, sorts and pages the table of activities, and opens the section that a link leads to. Texts of users are only
   ever compared, never made into markup; packed sections are markup of the templates, in which they stand escaped.
   The state of the table stands in the address: #list?status=failed&page=2 */
(() => {
  const PAGE = 100;
  const byId = (id) => document.getElementById(id);
  const table = byId("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows).filter((row) => row.cells.length > 1);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const place = new Map(rows.map((row, index) => [row, index]));
  let drawn = rows;
  const state = { q: "", status: "", definition: "", sort: "", page: 1 };

  const selected = () => {
    const sought = state.q.toLowerCase();
    return rows.filter((row) =>
      (!state.status || row.cells[2].textContent === state.status) &&
      (!state.definition || row.cells[1].textContent === state.definition) &&
      (!sought || texts[place.get(row)].includes(sought)));
  };

  const key = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.sort ?? cell.textContent;  // instants sort as texts
    return cell.classList.contains("n") ? Number(value) : value;
  };

  const sorted = (found) => {
    if (!state.sort) return found;
    const down = state.sort.startsWith("-");
    const column = Number(state.sort.replace("-", ""));
    const keys = new Map(found.map((row) => [row, key(row, column)]));
    return found.slice().sort((a, b) => {
      const x = keys.get(a), y = keys.get(b);
      const order = x < y ? -1 : x > y ? 1 : place.get(a) - place.get(b);
      return down ? -order : order;
    });
  };

  const draw = () => {
    const found = sorted(selected());
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = Math.min(Math.max(1, state.page), pages);
    const from = (state.page - 1) * PAGE;
    body.replaceChildren(...found.slice(from, from + PAGE));
    byId("shown").value = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} activities`;
    drawn = found;
    byId("pages").hidden = pages === 1;
    byId("page").textContent = `Page ${state.page} of ${pages}`;
    byId("previous").disabled = state.page === 1;
    byId("next").disabled = state.page === pages;
    Array.from(table.tHead.rows[0].cells).forEach((cell, index) => {
      const order = state.sort === String(index) ? "ascending" : state.sort === `-${index}` ? "descending" : "none";
      cell.setAttribute("aria-sort", order);
    });
  };

  const remember = () => {
    const kept = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) {
      if (value && !(name === "page" && value === 1)) kept.set(name, value);
    }
    location.replace(`#list?${kept}`);
  };

  const change = (changes) => {
    Object.assign(state, { page: 1 }, changes);
    draw();
    remember();
  };

  const open = (part) => {
    for (const other of document.querySelectorAll(".activity[open]")) other.open = other === part;
    part.open = true;
    part.scrollIntoView();
    part.querySelector("summary").focus({ preventScroll: true });
  };

  const unpacked = async (block) => {
    const bytes = Uint8Array.from(atob(block.textContent), (letter) => letter.charCodeAt(0));
    const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const holder = document.createElement("template");
    holder.innerHTML = await new Response(inflated).text();
    return holder.content;
  };

  const section = async (id) => {
    const number = Number(id.slice(2));
    const found = byId(id);
    if (found) return found;
    for (const block of document.querySelectorAll("script.packed")) {
      if (Number(block.dataset.first) <= number && number <= Number(block.dataset.last)) {
        byId("unpacked").replaceChildren((await unpacked(block)).getElementById(id));
        return byId(id);
      }
    }
    return null;
  };

  const follow = async () => {
    const hash = location.hash.slice(1);
    if (hash.startsWith("list")) {
      const kept = new URLSearchParams(hash.slice(5));
      for (const name of ["q", "status", "definition", "sort"]) state[name] = kept.get(name) ?? "";
      state.sort = /^-?[0-7]$/.test(state.sort) ? state.sort : "";
      state.page = Number(kept.get("page")) || 1;
      byId("search").value = state.q;
      byId("status").value = state.status;
      byId("definition").value = state.definition;
      draw();
    } else if (/^a-\d+$/.test(hash)) {
      const found = await section(hash);
      if (found && location.hash.slice(1) === hash) open(found);
    }
  };

  Array.from(table.tHead.rows[0].cells).forEach((cell, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    button.addEventListener("click", () => change({ sort: state.sort === String(index) ? `-${index}` : String(index) }));
    cell.replaceChildren(button);
  });
  byId("search").addEventListener("input", (event) => change({ q: event.target.value }));
  byId("status").addEventListener("change", (event) => change({ status: event.target.value }));
  byId("definition").addEventListener("change", (event) => change({ definition: event.target.value }));
  byId("previous").addEventListener("click", () => change({ page: state.page - 1 }));
  byId("next").addEventListener("click", () => change({ page: state.page + 1 }));
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      event.preventDefault();
      byId("search").focus();
    }
  });
  // A link to the section that stands open already changes no address, and yet leads there.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#a-']");
    if (link && link.hash === location.hash) follow();
  });
  addEventListener("hashchange", follow);
  addEventListener("afterprint", draw);
  addEventListener("beforeprint", () => {
    body.replaceChildren(...drawn);
    for (const part of document.querySelectorAll("#attention details, .activity[open] details")) part.open = true;
  });

  document.body.classList.add("scripted");
  byId("details-hint").textContent = "Follow a link to an activity, here or in the tables above, to see its section.";
  byId("filter").hidden = false;
  draw();
  follow();
})();
