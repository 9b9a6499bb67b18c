# csv-groups: a policy in Rego. Outputs leave as CSV files with known columns and enough rows of each
# group, and nothing else leaves. The same policy in other languages is beside it, and all of them are
# held against fixtures/csv-groups.
#
#   admit    consents to every output of the job, never to logs or the exit status
#   ingress  allows
#   egress   denies with "not-csv", "columns", "small-group" or "many-groups"
#
# It trusts the request and its own configuration, does not judge what allowed values mean, and counts
# rows, not people. A file over 1 MiB is not shown to it, so it denies it. A policy to use is
# library/csv-columns.
package cloister

# Without a sound configuration nothing below is defined, which denies.
decision := {"allow": true, "channels": outputs} if {
	sound
	input.point == "admit"
}

decision := {"allow": true} if {
	sound
	input.point == "ingress"
}

decision := verdict if {
	sound
	input.point == "egress"
	every artifact in input.artifacts {
		is_output(artifact.channel)
	}
}

config := input.config

sound if {
	object.keys(config) == {"columns", "group_by", "min_group"}
	is_array(config.columns)
	config.group_by in config.columns
	is_number(config.min_group)
	config.min_group >= 1
}

is_output(channel) if startswith(channel, "outputs.")

outputs := [channel | some channel in input.channels; is_output(channel)]

# The first artifact with a code decides.
verdict := {"allow": true} if count(codes) == 0

verdict := {"allow": false, "code": codes[0]} if count(codes) > 0

codes := [code | some artifact in input.artifacts; code := judge(artifact)]

judge(artifact) := "not-csv" if {
	not is_table(artifact)
} else := "columns" if {
	not has_columns(artifact.content.columns)
} else := "small-group" if {
	count(artifact.content.rows) == 0
} else := judge_groups(members[artifact.channel])

is_table(artifact) if artifact.format == "csv"

has_columns(header) if {
	config.group_by in header
	every column in header {
		column in config.columns
	}
	count({column | some column in header}) == count(header)
}

judge_groups(groups) := "many-groups" if {
	count(groups) > 10000
} else := "small-group" if {
	some rows in groups
	count(rows) < config.min_group
}

# The rows of each group of each channel, by their number. As sets they are made in one pass; OPA's sort
# takes time in proportion to the square.
members[artifact.channel][row[column]] contains i if {
	some artifact in input.artifacts
	some column, name in artifact.content.columns
	name == config.group_by
	some i, row in artifact.content.rows
}
