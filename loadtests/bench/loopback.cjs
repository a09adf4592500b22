// Makes whatever Node program it is loaded into listen on 127.0.0.1 instead of on every address.
const { Server } = require("node:net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (first, ...rest) {
  if (typeof first === "number") return listen.call(this, first, "127.0.0.1", ...rest.filter((r) => typeof r === "function"));
  return listen.call(this, { ...first, host: "127.0.0.1" }, ...rest);
};
