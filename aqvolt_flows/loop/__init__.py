"""The closed loop: explore, doubt, label, train, again, until new labels teach nothing.

The core (:mod:`~aqvolt_flows.loop.doubt`, :mod:`~aqvolt_flows.loop.calibration`, :mod:`~aqvolt_flows.loop.selection`,
:mod:`~aqvolt_flows.loop.stopping`) works on arrays. :mod:`~aqvolt_flows.loop.rounds`, :mod:`~aqvolt_flows.loop.plan`
and :mod:`~aqvolt_flows.loop.jobs` join the stages of a campaign to rounds; no stage imports this package.
"""
