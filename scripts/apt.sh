# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Debian's packages of a suite that this machine does not list: an apt state of our
# own lists it, with the mirror that the machine's own apt uses. To be sourced,
# after lib.sh.

# The state's folder; the command; its arguments.
private_apt() {
	local state=$1 command=$2

	mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
	"$command" -q -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" \
		-o Dir::Etc::sourcelist="$state/sources.list" \
		-o Dir::Etc::sourceparts=- -o APT::Sandbox::User="$(id -un)" \
		-o APT::Update::Error-Mode=any -o Acquire::Retries=3 "${@:3}"
}

# Where this machine's apt gets packages with the label $1 from.
# shellcheck disable=SC2016 # apt-get expands these
debian_mirror() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
		'Origin: Debian' "Label: $1" | head -n 1
}

# The state's folder; deb or deb-src; the suites.
write_sources_list() {
	local state=$1 type=$2 suite label mirror

	mkdir -p "$state"
	for suite in "${@:3}"; do
		label=Debian
		[[ $suite != *-security ]] || label=Debian-Security
		mirror=$(debian_mirror "$label")
		[ -n "$mirror" ] || die "this machine's apt lists no mirror of $label"
		echo "$type [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
			"$mirror $suite main"
	done >"$state/sources.list"
}

# get_package DIR STATE "SUITE..." download|source PACKAGE - fetch it, or its source, to DIR
get_package() {
	local dir=$1 state=$2 what=$4 package=$5 suites type=deb options=()

	read -ra suites <<<"$3"
	[ "$what" = download ] || type=deb-src options=(--tar-only)
	write_sources_list "$state" "$type" "${suites[@]}"
	private_apt "$state" apt-get update >&2 ||
		die "no network and no cached source: can't reach Debian ${suites[*]}"
	(cd "$dir" && private_apt "$state" apt-get "$what" "${options[@]}" "$package" >&2) ||
		die "can't get $package from Debian ${suites[*]}"
}
