-- wrk: every request posts the body in the file that the first argument names; the others are headers, as NAME=VALUE.
function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    wrk.method = "POST"
    wrk.body = file:read("*a")
    file:close()
    for index = 2, #arguments do
        local name, value = arguments[index]:match("^([^=]+)=(.*)$")
        wrk.headers[name] = value
    end
end

function done(summary, latency)
    io.write(string.format("units %d seconds %f bad %d\n", summary.requests, summary.duration / 1e6,
        summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
