/** The routes of this service, as /openapi.json says. */

const main = document.getElementById("docs");

function made(name, text = "", inside = []) {
  const element = document.createElement(name);
  // What stands between backticks is code.
  for (const [place, part] of text.split("`").entries()) {
    if (place % 2) {
      const code = document.createElement("code");
      code.textContent = part;
      element.append(code);
    } else {
      element.append(part);
    }
  }
  element.append(...inside);
  return element;
}

function table(rows) {
  const line = (cells) => made("tr", "", cells.map((cell) => made("td", cell)));
  return made("table", "", [made("tbody", "", rows.map(line))]);
}

const typeOf = (schema = {}) => {
  if (schema.enum) return schema.enum.join(", ");
  const types = (schema.anyOf ?? [schema]).map(({ type, format }) => (format === "binary" ? "file" : type));
  return types.filter((type) => type && type !== "null").join(" or ");
};

function bodyOf(operation) {
  const content = operation.requestBody?.content ?? {};
  return Object.entries(content).map(([kind, { schema = {} }]) => {
    const fields = Object.entries(schema.properties ?? {}).map(([name, field]) => `\`${name}\` (${typeOf(field)})`);
    return [`\`${kind}\``, fields.join(", ") || typeOf(schema)];
  });
}

function curl(method, path, operation) {
  const parts = ["curl"];
  const kinds = Object.keys(operation.requestBody?.content ?? {});
  if (kinds.includes("multipart/form-data")) parts.push("-F image=@photo.jpg");
  else if (kinds.includes("application/json")) parts.push("-H 'content-type: application/json' -d @request.json");
  else if (method !== "get") parts.push(`-X ${method.toUpperCase()}`);
  const examples = { layer: "mask", level: "0", place: "0_0", kind: "mask" };
  const filled = path.replace(/\{(\w+)(?::\w+)?\}/g, (whole, name) => examples[name] ?? name.toUpperCase());
  parts.push(location.origin + filled);
  const answers = Object.keys(operation.responses?.["200"]?.content ?? {}).join(" ");
  if (/image\//.test(answers)) parts.push("-o mask.png");
  return parts.join(" ");
}

function shown(path, method, operation) {
  const inside = (operation.description ?? "").split("\n\n").map((text) => made("p", text));
  const parameters = (operation.parameters ?? []).map((parameter) => [
    `\`${parameter.name}\``,
    [parameter.in, typeOf(parameter.schema), parameter.required ? "needed" : "", parameter.description ?? ""]
      .filter(Boolean)
      .join(", "),
  ]);
  if (parameters.length) inside.push(made("div", "", [made("h3", "Parameters"), table(parameters)]));
  const body = bodyOf(operation);
  if (body.length) inside.push(made("div", "", [made("h3", "Body"), table(body)]));
  const answers = Object.entries(operation.responses ?? {})
    .filter(([status]) => status !== "422")
    .map(([status, { description, content = {} }]) => [`\`${status}\``, [description, ...Object.keys(content)].join(", ")]);
  inside.push(made("div", "", [made("h3", "Answers"), table(answers)]));
  const example = document.createElement("pre");
  example.tabIndex = 0;
  example.textContent = curl(method, path, operation);
  inside.push(made("div", "", [made("h3", "Example"), example]));
  const code = document.createElement("code");
  code.textContent = path;
  const summary = made("summary", "", [made("b", method.toUpperCase()), code, made("span", operation.summary ?? "")]);
  const box = made("div", "", inside);
  box.className = "inside";
  return made("details", "", [summary, box]);
}

try {
  const api = await (await fetch("/openapi.json")).json();
  document.getElementById("about").textContent =
    `${api.info.description} Version ${api.info.version}. Errors are JSON: {"error": "one line"}. ` +
    "Where the service has a token, it is a bearer token or the password of any user (curl -u :TOKEN).";
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const group = operation.tags?.[0] ?? "other";
      groups.set(group, [...(groups.get(group) ?? []), shown(path, method, operation)]);
    }
  }
  for (const [name, routes] of groups) main.append(made("h2", name), ...routes);
} catch (error) {
  document.getElementById("about").textContent = `The description of the routes cannot be read: ${error.message}`;
}
main.setAttribute("aria-busy", "false");
