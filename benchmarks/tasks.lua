-- wrk: post the body, then get the result by the id that came back, until it is there. A unit is one task.
-- Arguments: the body's file, its Content-Type, the submit's path, the result's path with %s for the id.
local submit, result
local waiting = {}
finished = 0

local threads = {}
function setup(thread)
    table.insert(threads, thread)
end

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    submit = wrk.format("POST", arguments[3], {["Content-Type"] = arguments[2]}, file:read("*a"))
    result = arguments[4]
    file:close()
end

function request()
    local id = table.remove(waiting, 1)
    return id and wrk.format("GET", string.format(result, id)) or submit
end

function response(status, headers, body)
    local id = body:match('"task_id": ?"(%x[%x-]+)"')
    if id then
        table.insert(waiting, id)
    else
        finished = finished + 1
    end
end

function done(summary, latency)
    local units = 0
    for _, thread in ipairs(threads) do
        units = units + thread:get("finished")
    end
    io.write(string.format("units %d seconds %f bad %d\n", units, summary.duration / 1e6,
        summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
