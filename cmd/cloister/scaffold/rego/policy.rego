# NAME: outputs leave up to a number of bytes, and nothing else leaves. The request is `input`; the value of
# `decision` is the decision. Where it is undefined, the policy fails, which denies.
package cloister

decision := {"allow": true, "channels": outputs, "caps": caps} if {
	input.point == "admit"
	is_number(max_bytes) # without this, a comprehension over what is undefined would be empty
}

decision := {"allow": true} if input.point == "ingress"

decision := {"allow": true} if {
	input.point == "egress"
	every artifact in input.artifacts {
		artifact.bytes <= max_bytes
	}
}

decision := {"allow": false, "code": "too-large"} if {
	input.point == "egress"
	some artifact in input.artifacts
	artifact.bytes > max_bytes
}

max_bytes := input.config.max_bytes

caps := {channel: max_bytes | some channel in outputs}

outputs := [channel | some channel in input.channels; startswith(channel, "outputs.")]
