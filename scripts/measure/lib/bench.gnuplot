# SPDX-License-Identifier: GPL-2.0
#
# One of the plots of scripts/measure/lib/bench-report: name.dat becomes name.svg. A row of it is a
# sink; each three columns after its name, low, middle and high, are a bar, which starts at
# `start`: the scale is linear if that is 0.

set terminal svg noenhanced size 960,480 font "DejaVu Sans,13" background "white"
set output name.".svg"
set datafile separator "\t"
set encoding utf8

count(s) = strstrt(s, "|") ? 1 + count(s[strstrt(s, "|") + 1:]) : 1
first(s) = strstrt(s, "|") ? s[:strstrt(s, "|") - 1] : s
nth(s, n) = n > 1 ? nth(s[strstrt(s, "|") + 1:], n - 1) : first(s)
nr = count(bars)
width = 0.86 / nr
center(row, bar) = row + (bar - (nr + 1) / 2.0) * width

set title title font ",15"
set border 3 lc rgb "#777777"
set tics nomirror scale 0.5
set grid ytics lc rgb "#dddddd" lt 1
if (start) set logscale y 2
set format y "%g".unit
set xrange [-0.5:rows - 0.5]
if (highest eq "*") { set yrange [lowest:*] } else { set yrange [lowest:real(highest)] }
set arrow from -0.5,start to rows - 0.5,start nohead lw 1.5 lc rgb "#333333" front
set style fill solid 1.0 noborder
set key outside bottom center horizontal maxcols 3 samplen 1 spacing 1.4 reverse Left

data = name.".dat"
low(bar) = column(3 * bar - 1)
mid(bar) = column(3 * bar)
high(bar) = column(3 * bar + 1)
color(bar) = int("0x".nth(colors, bar))
plot for [b = 1:nr] data using (center($0, b)):(mid(b)): \
		(center($0, b) - width / 2):(center($0, b) + width / 2):(start):(mid(b)) \
		with boxxyerror lc rgb color(b) title nth(bars, b), \
	for [b = 1:nr] data using (center($0, b)):(low(b)):(0):(high(b) - low(b)) \
		with vectors nohead lw 1.5 lc rgb "#111111" notitle, \
	data using (center($0, 1)):(high(1)):(sprintf(mid(1) < 9.95 ? "%.1f" : "%.0f", mid(1))) \
		with labels offset 0,0.6 textcolor rgb color(1) notitle, \
	data using 0:(1):xtic(1) with dots lc rgb "#333333" notitle
